#!/usr/bin/env bash
# Every step from raw videos to measured weights, with the smallest networks: minutes on a laptop, no GPU.
#
#     examples/train_tiny.sh [CLIPS] [OUT]
#
# CLIPS is a folder of videos of talking faces. Without it, two are made from the example portraits, so that the script
# runs on a fresh clone. The weights are useless: configs/tiny.yaml trains tiny networks for a few steps. For real ones use
# the same commands without `--config tiny` (docs/training.md).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
CLIPS=${1:-}
OUT=${2:-tiny-run}
OSMNET=${OSMNET:-osmnet}
mkdir -p "$OUT"

if [ -z "$CLIPS" ]; then
    CLIPS=$OUT/clips
    mkdir -p "$CLIPS"
    voice=1
    for face in astronaut hopper; do
        $OSMNET generate "examples/portrait_$face.jpg" "examples/speech_$voice.wav" --output "$CLIPS/$face.mp4" \
            --num-videos 1 --seed "$voice" --size 320
        voice=$((voice + 1))
    done
fi

# 1. Raw videos to shards; see OUT/data/report.html.
$OSMNET prepare "$CLIPS" --out "$OUT/data"

# 2. Each stage; curves and pictures: tensorboard --logdir OUT/model/work
$OSMNET train face-model --data "$OUT/data" --model "$OUT/model"
for stage in motion upper-face expression video; do
    $OSMNET train "$stage" --config tiny --data "$OUT/data" --model "$OUT/model"
done

# 3. A folder for OSMNetPipeline.from_pretrained, a first video, the figures; see OUT/report/report.html.
$OSMNET train export --model "$OUT/model" --out "$OUT/weights"
$OSMNET generate examples/portrait_astronaut.jpg examples/speech_1.wav --model "$OUT/weights" --output "$OUT/video" \
    --num-videos 2 --seed 7
$OSMNET evaluate --data "$OUT/data" --model "$OUT/weights" --out "$OUT/report" --quick
