// Rendered takes: their videos play together, one of them with sound.

const root = element.querySelector(".root");
const APART = 0.08; // s; a video that is further than this from the first one is set back
let stop = () => {}, hush = () => {};
yieldSound(root, () => hush());

function show(value) {
  stop();
  root.replaceChildren();
  if (!value) return;
  const head = make("div", { class: "part-head" }, make("h3", { text: value.title, tabindex: -1 }), make("p", { class: "hint", text: value.hint }));
  if (!value.takes.length) { root.append(head); return; }
  const { takes, seconds } = value, limit = largestTurn(takes);
  let heard = 0, wanted = false, running = true, fresh = true;
  hush = () => { if (wanted) player.pause(); };
  stop = () => { running = false; cards.forEach(({ video }) => video.pause()); };

  const player = {
    play() {
      claimSound(root);
      wanted = true;
      const from = fresh || cards[0].video.ended ? 0 : cards[0].video.currentTime;
      fresh = false;
      cards.forEach(({ video }) => { video.currentTime = from; video.play().catch(() => {}); });
      tick();
    },
    pause() { wanted = false; cards.forEach(({ video }) => video.pause()); player.seek(cards[0].video.currentTime); },
    seek(to) { fresh = false; cards.forEach(({ video }) => { video.currentTime = to; }); paint(to); },
  };
  const bar = playBar(seconds, player, null);
  const cards = takes.map((take, index) => {
    const name = `take ${take.number}`;
    const video = make("video", {
      src: take.video.url, playsinline: true, preload: "auto", "aria-label": `AI-generated video, ${name}`,
      click: () => (wanted ? player.pause() : player.play()),
    });
    video.muted = index !== heard;
    const curves = drawCurves(take.turn, limit, name, (share) => player.seek(share * seconds));
    const listen = make("button", { type: "button", class: "round small", click: () => hear(index) }, icon("mute"));
    const stem = `osmnet-${name.replace(" ", "-")}-seed-${take.seed}`;
    const card = make("li", { class: "card rendered" },
      make("div", { class: "frame" }, video, listen), make("div", { class: "line" },
        make("strong", { text: `Take ${take.number}` }), make("span", { class: "hint", text: `seed ${take.seed}` })), curves,
      make("div", { class: "actions" },
        value.moving ? make("button", { type: "button", class: "quiet", "aria-label": `More takes like ${name}`,
          click: () => trigger("more", { take: index }) }, icon("more"), make("span", { text: "More like this" })) : null,
        make("a", { class: "quiet", href: take.video.url, download: `${stem}.mp4`, "aria-label": `Download the video of ${name}` }, icon("down"), make("span", { text: "Video" })),
        make("a", { class: "quiet", href: take.details.url, download: `${stem}.json`, "aria-label": `Download what made ${name}, as JSON` }, icon("down"), make("span", { text: "JSON" }))));
    return { card, video, curves, listen };
  });
  function hear(index) {
    heard = index;
    cards.forEach((each, i) => {
      each.video.muted = i !== heard;
      setIcon(each.listen, i === heard ? "sound" : "mute", i === heard ? `Take ${takes[i].number} is heard` : `Hear take ${takes[i].number}`);
      each.listen.setAttribute("aria-pressed", i === heard);
    });
  }
  function paint(now) {
    cards.forEach(({ curves }) => curves.moveTo(Math.min(now / seconds, 1)));
    bar.show(now, wanted);
  }
  function tick() {
    if (!running || !root.isConnected) return;
    const first = cards[0].video;
    if (wanted && first.ended) { wanted = false; }
    if (wanted) {
      requestAnimationFrame(tick);
      for (const { video } of cards) {
        if (Math.abs(video.currentTime - first.currentTime) > APART && !video.seeking) video.currentTime = first.currentTime;
        if (video.paused && !video.ended && !first.paused) video.play().catch(() => {});
      }
    }
    paint(first.currentTime);
  }
  hear(0);
  root.append(
    head,
    ...value.notes.map((note) => make("p", { class: "note", text: note })),
    make("ul", { class: "cards", "data-takes": takes.length }, ...cards.map((each) => each.card)), legend(limit), bar);
  // All takes begin alike: until they are played, show a moment at which they differ.
  paint(0.45 * seconds);
  cards.forEach(({ video }) => video.addEventListener("loadedmetadata", () => { if (fresh) video.currentTime = 0.45 * seconds; }, { once: true }));
  if (value.isNew) reveal(head.firstChild);
}

show(props.value);
watch("value", () => show(props.value));
