"use strict";
// The zoom: one picture of a group large, and the part of all its pictures under the pointer, magnified alike.
(() => {
  const at = (id) => document.getElementById("zoom" + id);
  const dialog = at("");
  const picture = at("-picture"), frame = at("-frame"), crops = at("-crops");
  const FACTORS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32];
  const SIDE = 256; // pixels of a magnified crop
  let shots = [], index = 0, step = 3, x = 0.5, y = 0.5, opener = null, queued = false;

  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  // The visible part, relative to the picture's size: left, top, width, height. Square in pixels.
  function part(image) {
    const w = image.naturalWidth, h = image.naturalHeight;
    const side = Math.max(w, h) / FACTORS[step];
    const width = Math.min(1, side / w), height = Math.min(1, side / h);
    return [clamp(x - width / 2, 0, 1 - width), clamp(y - height / 2, 0, 1 - height), width, height];
  }

  function draw() {
    queued = false;
    const current = shots[index].querySelector("img");
    const [left, top, width, height] = part(current);
    frame.style.left = 100 * left + "%";
    frame.style.top = 100 * top + "%";
    frame.style.width = 100 * width + "%";
    frame.style.height = 100 * height + "%";
    [...crops.querySelectorAll("canvas")].forEach((canvas, k) => {
      const image = shots[k].querySelector("img");
      const [l, t, w, h] = part(image);
      canvas.width = SIDE;
      canvas.height = Math.max(1, Math.round(SIDE * (h * image.naturalHeight) / (w * image.naturalWidth)));
      const pen = canvas.getContext("2d");
      pen.imageSmoothingEnabled = false;
      pen.drawImage(image, l * image.naturalWidth, t * image.naturalHeight, w * image.naturalWidth,
        h * image.naturalHeight, 0, 0, canvas.width, canvas.height);
    });
    at("-factor").textContent = FACTORS[step] + "×";
  }

  function redraw() {
    if (!queued) requestAnimationFrame(draw);
    queued = true;
  }

  function show(k) {
    index = (k + shots.length) % shots.length;
    const shot = shots[index], image = shot.querySelector("img");
    picture.src = image.src;
    picture.alt = image.alt;
    at("-label").textContent = `${image.alt} (${index + 1} of ${shots.length})`;
    at("-caption").textContent = shot.dataset.caption;
    [...crops.children].forEach((button, n) => button.setAttribute("aria-pressed", n === index));
    fit(image);
    redraw();
  }

  // As large as fits; small pictures are enlarged.
  function fit(image) {
    const phone = matchMedia("(max-width: 48rem)").matches;
    const wide = (phone ? dialog.clientWidth - 24 : (dialog.clientWidth - 50) / 2);
    const high = innerHeight * (phone ? 0.45 : 0.7);
    const scale = Math.min(wide / image.naturalWidth, high / image.naturalHeight);
    picture.style.imageRendering = scale >= 1 ? "pixelated" : "auto";
    picture.style.width = Math.floor(image.naturalWidth * scale) + "px";
    picture.style.height = Math.floor(image.naturalHeight * scale) + "px";
  }

  function crop(shot, k) {
    const button = document.createElement("button");
    button.type = "button";
    const label = document.createElement("span");
    label.textContent = shot.dataset.label;
    button.append(document.createElement("canvas"), label);
    button.addEventListener("click", () => show(k));
    return button;
  }

  function open(shot) {
    opener = shot;
    shots = [...shot.closest("[data-group]").querySelectorAll(".shot")];
    crops.replaceChildren(...shots.map(crop));
    x = y = 0.5;
    dialog.showModal();
    show(shots.indexOf(shot));
  }

  function magnify(by) {
    step = clamp(step + by, 0, FACTORS.length - 1);
    redraw();
  }

  function move(dx, dy) {
    x = clamp(x + dx / FACTORS[step] / 4, 0, 1);
    y = clamp(y + dy / FACTORS[step] / 4, 0, 1);
    redraw();
  }

  function point(event) {
    const box = picture.getBoundingClientRect();
    x = clamp((event.clientX - box.left) / box.width, 0, 1);
    y = clamp((event.clientY - box.top) / box.height, 0, 1);
    redraw();
  }

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  dialog.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (arrow && event.shiftKey) move(...arrow);
    else if (arrow && arrow[0] !== 0) show(index + arrow[0]);
    else if (event.key === "+" || event.key === "=") magnify(1);
    else if (event.key === "-" || event.key === "_") magnify(-1);
    else return;
    event.preventDefault();
  });

  document.addEventListener("click", (event) => {
    const shot = event.target.closest(".shot");
    if (shot) open(shot);
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => opener.focus());
  at("-previous").addEventListener("click", () => show(index - 1));
  at("-next").addEventListener("click", () => show(index + 1));
  at("-in").addEventListener("click", () => magnify(1));
  at("-out").addEventListener("click", () => magnify(-1));
  at("-close").addEventListener("click", () => dialog.close());
  picture.addEventListener("pointermove", point);
  picture.addEventListener("pointerdown", point);
  picture.addEventListener("dragstart", (event) => event.preventDefault());
  addEventListener("resize", () => { if (dialog.open) show(index); });
})();
