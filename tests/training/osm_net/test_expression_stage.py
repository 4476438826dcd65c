"""The expression stage: sound augmentation, measurements of lips, and the split of speakers."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from osmnet.data.dataset import Clip, Dataset
from osmnet.face.morphable import FaceModel
from osmnet.face.topology import INNER_LIPS
from osmnet.loading.model import WEIGHTS_NAME
from osmnet.loading.packaged import packaged_weights
from osmnet.media.features import mel_spectrogram
from osmnet.models.osm_net.expression import ExpressionExtractor
from osmnet.training.osm_net import expression_stage as expression
from osmnet.training.osm_net import lip_amplitude as lips
from osmnet.training.osm_net.expression_stage import ExpressionConfig, ExpressionStage
from osmnet.training.osm_net.sound import SOUND, SoundAugmentation, check_ranges, loudness, mel_steps
from osmnet.training.osm_net.speech_clip import ClipSound, SpeechClip, draw_shares, set_aside, windows_of
from tests.support.dummies import FACE_MODEL, speech

RATE, HELD_OUT = 16_000, "opentalker-face-1"
TINY = ExpressionConfig(
    steps=3,
    batch_size=2,
    hidden_dim=16,
    frames=24,
    warm_up=0,
    validate_every=2,
    sample_every=0,
    checkpoint_every=0,
    recordings=1,
)


@pytest.fixture(scope="module")
def shipped() -> FaceModel:
    return FaceModel.from_pretrained(FACE_MODEL)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    shutil.copytree(FACE_MODEL, folder / "face_model")
    return folder


@pytest.fixture(scope="module")
def dataset(dataset_folder: Path) -> Dataset:
    return Dataset.open(dataset_folder)


# Sound


def tone(hertz: float, seconds: float = 2.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def middle(waveform: np.ndarray, change: SoundAugmentation, level: float | None = None) -> np.ndarray:
    """Mean mel step `(16,)` of the middle of a recording."""
    level = loudness(waveform) if level is None else level
    return mel_steps(waveform, level, 10, 30, change)[6:-10].mean(0)


def power(mel: np.ndarray) -> np.ndarray:
    """What the logarithm of a spectrogram was taken of: 1 is the loudness of the recording."""
    return 10 ** (3 * mel - 3)


def test_sound_without_augmentation_is_the_spectrogram_of_inference():
    voice = speech(2.0)
    whole = np.pad(mel_spectrogram(voice), ((6, 10), (0, 0)), constant_values=-1)
    level = loudness(voice)
    np.testing.assert_allclose(mel_steps(voice, level, 0, 50, SoundAugmentation())[6:-10], whole[6:-10], atol=1e-4)
    np.testing.assert_allclose(mel_steps(voice, level, 7, 20, SoundAugmentation()), whole[28:124], atol=1e-4)
    windows = windows_of(whole)
    assert windows.shape == (50, 16, 16)
    np.testing.assert_array_equal(windows[3], whole[12:28])


def test_pitch_moves_the_spectrum_by_its_semitones():
    low, high = tone(600), tone(600 * 2 ** (2.4 / 12))
    moved = middle(low, SoundAugmentation(pitch=2.4))
    # Compared as powers: near the floor of the logarithm lie the window's skirts.
    np.testing.assert_allclose(power(moved), power(middle(high, SoundAugmentation())), atol=0.01)
    assert np.abs(power(moved) - power(middle(low, SoundAugmentation()))).max() > 0.2
    assert np.argmax(middle(low, SoundAugmentation(pitch=-12))) < np.argmax(middle(low, SoundAugmentation(pitch=12)))


def test_gain_shifts_every_band_alike():
    voice = speech(2.0)
    plain, louder = (power(middle(voice, SoundAugmentation(gain=gain))) for gain in (0.0, 3.0))
    loud = plain > 0.003  # the floor below is not lifted with them
    assert loud.sum() >= 3
    np.testing.assert_allclose(louder[loud] / plain[loud], 10**0.3, rtol=0.01)


def test_equaliser_changes_what_lies_at_its_knots_and_keeps_the_loudness():
    both = tone(500) + tone(2500)
    knots = np.array([0, 0, 6, 0, -6, 0, 0.0])  # at 500 and at 2500 Hz
    plain, tilted = middle(both, SoundAugmentation()), middle(both, SoundAugmentation(equaliser=knots))
    low, high = np.argmax(plain[:8]), 8 + np.argmax(plain[8:])
    assert (tilted - plain)[low] - (tilted - plain)[high] == pytest.approx(12 / 30, abs=0.02)
    flat = middle(both, SoundAugmentation(equaliser=np.full(7, 9.0)))
    np.testing.assert_allclose(flat, plain, atol=0.01)  # louder everywhere is not louder after the gate


def test_noise_has_its_signal_to_noise_ratio():
    voice = speech(2.0)
    voice[16_000:] = 0
    level = loudness(voice)
    floor = [mel_steps(voice, level, 30, 15, SoundAugmentation(noise=20.0, seed=seed)) for seed in range(8)]
    heard = np.mean([power(mel).sum(1).mean() for mel in floor])
    # The speech is its own level, the noise a hundredth; the recording as a whole 1 % louder.
    assert 10 * np.log10(heard) == pytest.approx(-20, abs=1)
    loud = mel_steps(voice, level, 5, 10, SoundAugmentation())
    noisy = mel_steps(voice, level, 5, 10, SoundAugmentation(noise=20.0))
    assert np.abs(noisy - loud)[loud > 0.6].max() < 0.15


def test_silence_stays_silent_without_noise():
    voice = speech(2.0)
    voice[16_000:] = 0
    change = SoundAugmentation(gain=4.0, equaliser=np.full(7, 8.0), pitch=2.0, speed=1.1)
    assert mel_steps(voice, loudness(voice), 30, 15, change)[: 15 * 4].max() < -0.95
    assert (mel_steps(np.zeros(32_000, np.float32), 0.0, 10, 20, SoundAugmentation(noise=20.0)) == -1).all()


def test_reverberation_fades_by_60_db_in_its_time():
    burst = np.zeros(3 * RATE, np.float32)
    burst[RATE : RATE + 1600] = np.random.default_rng(0).standard_normal(1600)
    curves = [
        mel_steps(burst, loudness(burst), 0, 75, SoundAugmentation(reverberation=0.6, seed=seed))[6:-10]
        for seed in range(8)
    ]
    heard = np.mean([power(mel).sum(1) for mel in curves], 0)
    seconds = 0.01 * np.arange(len(heard))
    tail = (seconds > 1.13) & (seconds < 1.45)
    slope = np.polyfit(seconds[tail], 10 * np.log10(heard[tail]), 1)[0]
    assert slope == pytest.approx(-60 / 0.6, rel=0.15)
    assert mel_steps(burst, loudness(burst), 0, 75, SoundAugmentation())[6:-10][(seconds > 1.13)].max() == -1


def test_draws_are_within_their_ranges_and_repeat():
    rng = np.random.default_rng(4)
    drawn = [SoundAugmentation.draw(SOUND, rng) for _ in range(300)]
    for name in ("gain", "noise", "reverberation", "pitch", "speed"):
        values = [value for each in drawn if (value := getattr(each, name)) not in (None, 0.0)]
        low, high = SOUND[name]
        assert low <= min(values) < low + 0.1 * (high - low) and high - 0.1 * (high - low) < max(values) <= high
    assert {each.noise is None for each in drawn} == {each.reverberation == 0 for each in drawn} == {True, False}
    one, two = (SoundAugmentation.draw(SOUND, np.random.default_rng(9)) for _ in range(2))
    voice = speech(2.0)
    np.testing.assert_array_equal(*(mel_steps(voice, loudness(voice), 5.3, 20, each) for each in (one, two)))
    assert SoundAugmentation.draw({}, rng).speed == 1 and SoundAugmentation.draw({}, rng).equaliser is None


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"echo": (0, 1)}, "no sound augmentation 'echo'; there are gain, equaliser"),
        ({"speed": (1.2, 0.9)}, "sound_speed must be two numbers from 0.5 to 2, the smaller one first"),
        ({"reverberation": (0.1, 30)}, "sound_reverberation must be"),
        ({"noise": (10.0,)}, "sound_noise must be two numbers"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(ranges: dict, message: str):
    with pytest.raises(ValueError, match=message):
        check_ranges(ranges)


# Clips


def opening_direction(shipped: FaceModel) -> np.ndarray:
    """β `(64,)` that opens the mouth."""
    basis = shipped.array("expression_basis").reshape(64, -1)
    opens = np.zeros((478, 3))
    opens[INNER_LIPS[1:10], 1] = 0.15
    return np.linalg.solve(basis @ basis.T + 1e-3 * np.eye(64), basis @ opens.ravel()).astype(np.float32)


def made_up(shipped: FaceModel, frames: int = 120, shift: int = 0, name: str = "made-up") -> SpeechClip:
    """A clip of noise as loud as the mouth is open, its sound `shift` frames late."""
    rng = np.random.default_rng(3)
    loud = np.clip(np.convolve(rng.random(frames) < 0.15, np.hanning(7), "same"), 0, 1)
    sound = rng.standard_normal(frames * 640) * np.repeat(np.roll(loud, shift), 640)
    clip = SpeechClip.__new__(SpeechClip)
    waveform = (0.1 * sound).clip(-1, 1).astype(np.float32)
    clip.speech_features = []
    clip.sound = ClipSound(waveform, loudness(waveform), frames)
    clip.expression = (loud[:, None] * opening_direction(shipped)).astype(np.float32)
    clip.identity, clip.name, clip.speaker = np.zeros(40, np.float32), name, name
    return clip


@pytest.mark.parametrize("speed", [0.8, 1.0, 1.25])
def test_speed_moves_mouth_and_sound_together(shipped: FaceModel, speed: float):
    clip = made_up(shipped)
    direction = opening_direction(shipped)
    mel, expression_cut = clip.cut(80, SoundAugmentation(speed=speed), np.random.default_rng(0))
    assert mel.shape == (80, 16, 16) and expression_cut.shape == (80, 64)
    opening = expression_cut @ direction / (direction @ direction)
    loud = np.sqrt(power(mel[:, 6:10])).mean((1, 2))
    scores = [np.corrcoef(loud[3 + lag : 77 + lag], opening[3:77])[0, 1] for lag in range(-3, 4)]
    assert np.argmax(scores) == 3 and scores[3] > 0.93
    # Syllables come more often at a higher speed.
    steps = np.abs(np.diff(opening)).mean()
    slow = (
        clip.cut(80, SoundAugmentation(speed=1.0), np.random.default_rng(0))[1] @ direction / (direction @ direction)
    )
    assert steps / np.abs(np.diff(slow)).mean() == pytest.approx(speed, rel=0.25)


class LoudnessEncoder:
    """Says of a frame how loud it is: what a speech encoder does, without weights."""

    def encode(self, sound: np.ndarray, begin: int, end: int) -> np.ndarray:
        return self.encode_piece(sound, np.arange(begin, end))

    def encode_piece(self, waveform: np.ndarray, frames: np.ndarray) -> np.ndarray:
        smooth = np.convolve(np.abs(waveform), np.full(640, 1 / 640), "same")
        at = np.clip(np.rint((frames + 0.5) * 640).astype(int), 0, len(smooth) - 1)
        return smooth[at, None].repeat(4, axis=1)


def test_speech_features_stay_with_the_mouth_in_every_recording(shipped: FaceModel):
    clip = made_up(shipped)
    clip.encode(
        LoudnessEncoder(), {"pitch": (2.0, 3.0), "equaliser": (-6.0, 6.0), "gain": (-4.0, 4.0)}, copies=6, seed=0
    )
    assert [each.shape for each in clip.speech_features] == [(120, 4)] * 7
    opening = clip.expression @ opening_direction(shipped)
    for features in clip.speech_features:
        scores = [np.corrcoef(features[5 + lag : 115 + lag, 0], opening[5:115])[0, 1] for lag in range(-3, 4)]
        assert np.argmax(scores) == 3 and scores[3] > 0.9
    assert len({each.tobytes() for each in clip.speech_features}) == 7

    rng = np.random.default_rng(1)
    mel, beta, features = clip.cut(60, SoundAugmentation(speed=1.2), rng)
    assert mel.shape == (60, 16, 16) and features.shape == (60, 4) and features.dtype == np.float32
    opening = beta @ opening_direction(shipped)
    assert np.corrcoef(features[:, 0], opening)[0, 1] > 0.9


@pytest.mark.integration
def test_the_network_is_trained_with_the_speech_encoder_and_leaves_it_as_it_is(
    dataset: Dataset, model: Path, tmp_path: Path
):
    folder = shutil.copytree(model, tmp_path / "model")
    stage = ExpressionStage(TINY, dataset, folder)
    network = stage.networks["expression_extractor"]
    assert network.config.speech_dim == 288
    batch = stage.batch(0, 0, 1, 0)
    assert batch["speech"].shape == (2, 24, 288)
    # Brought to a common scale: of other clips than these it is roughly one, too.
    standard = (batch["speech"] - network.speech_input.mean) / network.speech_input.spread
    assert 0.5 < float(standard.std()) < 1.5 and abs(float(standard.mean())) < 0.3
    stage.finish(stage.networks)
    shipped_encoder = load_file(packaged_weights() / "speech_encoder" / WEIGHTS_NAME)
    kept = load_file(folder / "speech_encoder" / WEIGHTS_NAME)
    assert all(torch.equal(kept[name].float(), tensor.float()) for name, tensor in shipped_encoder.items())

    deaf = ExpressionStage(replace(TINY, speech_encoder=""), dataset, folder)
    assert deaf.networks["expression_extractor"].config.speech_dim == 0 and "speech" not in deaf.batch(0, 0, 1, 0)


def test_a_clip_that_is_too_short_is_slowed_down(shipped: FaceModel):
    clip = made_up(shipped, frames=30)
    mel, cut = clip.cut(48, SoundAugmentation(speed=1.1), np.random.default_rng(0))
    assert mel.shape == (48, 16, 16)
    np.testing.assert_allclose(cut[[0, -1]], clip.expression[[0, -1]], atol=0.7)
    assert np.abs(cut).max() <= np.abs(clip.expression).max() + 1e-6


def test_a_part_of_a_clip_is_that_part(dataset: Dataset, shipped: FaceModel):
    clip = dataset.clips()[0]
    whole, end = SpeechClip(clip, shipped), SpeechClip(clip, shipped, (0.8, 1.0))
    assert len(whole) == 50 and len(end) == 10 and whole.sound.level == end.sound.level
    np.testing.assert_array_equal(end.expression, whole.expression[40:])
    np.testing.assert_array_equal(end.sound.waveform, whole.sound.waveform[40 * 640 :])
    np.testing.assert_allclose(whole.sound.waveform, clip.speech(), atol=1 / 32767)


def test_speakers_are_set_aside_whole_then_clips_then_ends():
    clips = [SimpleNamespace(speaker=f"s{i // 3}", name=f"c{i}") for i in range(60)]
    training, aside, part = set_aside(clips, 0.1)
    assert part == 1 and len(aside) == 6 and len({clip.speaker for clip in aside}) == 2
    assert not {clip.speaker for clip in training} & {clip.speaker for clip in aside}
    assert len(training) + len(aside) == 60 and set_aside(clips[::-1], 0.1)[1] == aside[::-1]
    training, aside, part = set_aside(clips[:6], 0.2)  # two speakers only
    assert part == 1 and len(aside) == 1 and len(training) == 5
    assert set_aside(clips[:3], 0.2) == (clips[:3], clips[:3], 0.8)


def test_a_speaker_is_drawn_by_the_square_root_of_its_minutes():
    def clip(speaker: str, frames: int) -> list:
        return type("Clip", (list,), {"speaker": speaker})([0] * frames)

    # Eighty short sentences of one person, two clips of another, one of a third.
    clips = [*(clip("a", 50) for _ in range(80)), clip("b", 100), clip("b", 400), clip("c", 500)]
    shares = draw_shares(clips)
    assert shares.sum() == pytest.approx(1) and shares[81] == pytest.approx(2 * shares[80])
    assert shares[80] + shares[81] == pytest.approx(shares[82])
    assert shares[:80].sum() == pytest.approx(np.sqrt(4000 / 500) * shares[82])


# Lips


def test_concordance_loss_by_hand():
    # Sum over both rows of 2 cov / (var + var), by plain sums; the mean of each row does not count.
    prediction = torch.tensor([[0.0, 1.0, 2.0], [5.0, 5.0, 8.0]])[..., None]
    target = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])[..., None]
    covariance = ((-1 * -2) + 0 + (1 * 3)) / 3 + (1 + 1 + 4) / 3
    energy = 2 / 3 + (4 + 1 + 9) / 3 + 6 / 3 + 6 / 3
    assert float(lips.concordance_loss(prediction, target)) == pytest.approx(1 - 2 * covariance / energy, abs=1e-6)
    assert float(lips.concordance_loss(target, target)) == pytest.approx(0, abs=1e-6)
    assert float(lips.concordance_loss(-target, target)) == pytest.approx(2, abs=1e-6)
    # Half the amplitude is punished although the correlation is 1: 1 - 2·0.5 / (1 + 0.25).
    assert float(lips.concordance_loss(0.5 * target, target)) == pytest.approx(0.2, abs=1e-6)


class Ear(torch.nn.Module):
    """Opens the mouth as loud as the middle of the window is: what a well-trained extractor does."""

    config = SimpleNamespace(speech_dim=0)

    def __init__(self, direction: np.ndarray, gain: float = 1.0):
        super().__init__()
        self.register_buffer("output_scale", torch.full((64,), gain))
        self.register_buffer("output_bias", torch.zeros(64))
        self.direction = torch.from_numpy(direction)

    def forward(self, mel_windows: torch.Tensor, identity: torch.Tensor, speech: None = None) -> torch.Tensor:
        loud = (10 ** (3 * mel_windows[:, :, 6:10] - 3)).mean((2, 3)).sqrt() * 4
        return loud[..., None] * self.direction * self.output_scale + self.output_bias


def test_measure_knows_right_from_still_and_from_late(shipped: FaceModel):
    ear, clip = Ear(opening_direction(shipped)), made_up(shipped)
    right = lips.measure(ear, shipped, iter([clip]))
    assert right["opening"] > 0.95 and 0.7 < right["amplitude"] < 1.4 and right["lmd_ratio"] < 0.5
    still = lips.measure(Ear(np.zeros(64, np.float32)), shipped, [clip])
    assert still["opening"] == pytest.approx(0, abs=1e-3) and still["amplitude"] == pytest.approx(0, abs=1e-3)
    late = lips.measure(ear, shipped, [made_up(shipped, shift=4)])
    assert late["opening"] < 0.5 < lips.agreement(*lips.curves(ear, shipped, clip))


def test_amplitude_opens_mouths_as_far_as_asked_and_shuts_them_no_harder(shipped: FaceModel):
    ear, clip = Ear(opening_direction(shipped), gain=0.4), made_up(shipped)
    before = lips.curves(ear, shipped, clip)[0][:, 0]
    spread = lips.usual_spread(shipped, [clip, clip])
    gain = lips.set_amplitude(ear, shipped, [clip], 0.7 * spread)
    heard, seen = lips.curves(ear, shipped, clip)
    assert spread == pytest.approx(seen[:, 0].std(), rel=1e-3)
    assert gain > 1 and heard[:, 0].std() / seen[:, 0].std() == pytest.approx(0.7, abs=0.05)
    assert heard[:, 0].min() == pytest.approx(before.min(), abs=0.01)
    assert lips.set_amplitude(Ear(opening_direction(shipped), gain=0.01), shipped, [clip], spread) == 2.5


# The stage


def test_batches_depend_on_their_arguments_only(dataset: Dataset, model: Path):
    one, two = (ExpressionStage(TINY, dataset, model) for _ in range(2))
    two.batch(7, 0, 1, 0)
    first, again = one.batch(2, 0, 1, 1), two.batch(2, 0, 1, 1)
    assert first["mel"].shape == (2, 24, 16, 16) and first["expression"].shape == (2, 24, 64)
    assert first["identity"].shape == first["known_identity"].shape == (2, 40)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for other in ((3, 0, 1, 1), (2, 1, 2, 1), (2, 0, 1, 0)):
        assert not torch.equal(first["mel"], one.batch(*other)["mel"])
    for name, start in one.networks["expression_extractor"].state_dict().items():
        assert torch.equal(start, two.networks["expression_extractor"].state_dict()[name])


@pytest.mark.integration
def test_held_out_clips_choose_nothing(
    tmp_path: Path, dataset: Dataset, model: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    folders = [shutil.copytree(model, tmp_path / name) for name in ("one", "two")]
    reports = [expression.train(dataset, folders[0], TINY, tmp_path / "work-one")]
    plain = Clip.speech

    def other_voice(clip: Clip) -> np.ndarray:
        return plain(clip)[::-1].copy() if clip.name == HELD_OUT else plain(clip)

    monkeypatch.setattr(Clip, "speech", other_voice)
    reports.append(expression.train(dataset, folders[1], TINY, tmp_path / "work-two"))
    networks = [ExpressionExtractor.from_pretrained(folder / "expression_extractor") for folder in folders]
    first, second = (network.state_dict() for network in networks)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert reports[0]["opening"] != reports[1]["opening"]  # but they are what is reported
    assert {"opening", "width", "amplitude", "lmd_ratio", "gain", "misfits", "step"} <= reports[0].keys()
    assert {"l2", "ldmk", "mouth", "concordance", "val/opening", "val/score"} <= reports[0].keys()
    assert np.isfinite(list(reports[0].values())).all()
    # Trained, and stretched by what the report says.
    start = ExpressionStage(TINY, dataset, model).networks["expression_extractor"].state_dict()
    assert not torch.equal(first["head.weight"], start["head.weight"])
    assert float(first["output_scale"][0]) == pytest.approx(reports[0]["gain"])


@pytest.mark.integration
def test_finish_names_clips_whose_sound_does_not_fit(dataset: Dataset, model: Path, capsys):
    stage = ExpressionStage(TINY, dataset, model)
    deaf = stage.networks["expression_extractor"].eval()
    torch.nn.init.zeros_(deaf.head.weight)
    with torch.no_grad():
        report = stage.finish(stage.networks)
    assert report["misfits"] == 2 and report["opening"] == pytest.approx(0, abs=1e-6)
    said = capsys.readouterr().err
    assert "ann-voice: sound and lips agree only to" in said and "bob-voice" in said and HELD_OUT not in said


def test_losses_vanish_for_the_truth_and_ignore_a_constant(dataset: Dataset, model: Path, shipped: FaceModel):
    stage = ExpressionStage(TINY, dataset, model)
    batch = stage.batch(0, 0, 1, 0)

    class Oracle(torch.nn.Module):
        offset = 0.0

        def forward(self, mel: torch.Tensor, identity: torch.Tensor, speech: None = None) -> torch.Tensor:
            return batch["expression"] + self.offset

    oracle = Oracle()
    losses = expression.ExpressionLosses(oracle, shipped, own_mean=0.0)
    assert all(float(loss) == pytest.approx(0, abs=2e-4) for loss in losses(batch).values())
    oracle.offset = 1.5  # a habit: at own_mean 0 nobody minds, at 1 it counts
    assert all(float(loss) == pytest.approx(0, abs=2e-4) for loss in losses(batch).values())
    minding = expression.ExpressionLosses(oracle, shipped, own_mean=1.0)(batch)
    assert min(float(minding[name]) for name in ("l2", "ldmk", "mouth")) > 0.1
    assert set(minding) == set(TINY.weights) and TINY.weights["ldmk"] == 0.02


def test_fine_tuning_starts_from_the_networks_it_is_given(dataset: Dataset, model: Path, tmp_path: Path):
    config = ExpressionConfig(init="packaged", hidden_dim=16, frames=24, split="clip")
    stage = ExpressionStage(config, dataset, model)
    network = stage.networks["expression_extractor"]
    packaged = ExpressionExtractor.from_pretrained(packaged_weights(), subfolder="expression_extractor")
    assert network.config.hidden_dim == packaged.config.hidden_dim == 128  # its own, not the config's
    for name, value in packaged.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)
    other = FaceModel.from_pretrained(FACE_MODEL)
    other.geometry["mean_shape"].data += 0.01
    other.save_pretrained(tmp_path / "face_model")
    with pytest.raises(ValueError, match="belongs to another face model"):
        ExpressionStage(config, dataset, tmp_path)


@pytest.mark.integration
def test_figures_draw_both_curves(dataset: Dataset, model: Path):
    stage = ExpressionStage(TINY, dataset, model)
    for network in stage.networks.values():
        network.eval()
    picture = stage.figures(stage.networks)["lips"]
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def test_clips_must_be_long_enough_and_settings_in_range(dataset: Dataset, model: Path):
    with pytest.raises(ValueError, match="shorter than 100 frames; set frames to fewer"):
        ExpressionStage(ExpressionConfig(frames=200), dataset, model)
    for wrong in ({"aside": 0.0}, {"own_mean": 1.5}, {"frames": 1}, {"sound_pitch": (2.0, -2.0)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ExpressionConfig(**wrong)
