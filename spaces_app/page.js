() => {
  const buttons = () => [...document.querySelectorAll('#overlay .legend-item')];
  const press = (index) => { const found = buttons()[index]; if (found) found.click(); };
  document.addEventListener('click', (event) => {
    const row = event.target.closest('#regions tr[data-region]');
    if (row) return press(Number(row.dataset.region));
    const image = event.target.closest('#overlay .image-container img, #overlay .mask, #overlay .base-image');
    if (!image) return;
    const masks = [...document.querySelectorAll('#overlay img.mask')];
    let best = -1, least = Infinity;
    masks.forEach((mask, index) => {
      if (!mask.naturalWidth) return;
      const box = mask.getBoundingClientRect();
      const scale = Math.min(box.width / mask.naturalWidth, box.height / mask.naturalHeight);
      const x = (event.clientX - box.left - (box.width - scale * mask.naturalWidth) / 2) / scale;
      const y = (event.clientY - box.top - (box.height - scale * mask.naturalHeight) / 2) / scale;
      const canvas = document.createElement('canvas');
      canvas.width = mask.naturalWidth; canvas.height = mask.naturalHeight;
      const pen = canvas.getContext('2d'); pen.drawImage(mask, 0, 0);
      const reach = Math.max(2, Math.round(8 / scale));
      const near = pen.getImageData(Math.round(x) - reach, Math.round(y) - reach, 2 * reach + 1, 2 * reach + 1).data;
      if (!near.some((value, place) => place % 4 === 3 && value > 0)) return;
      const all = pen.getImageData(0, 0, canvas.width, canvas.height).data;
      let area = 0; for (let place = 3; place < all.length; place += 4) area += all[place] > 0;
      if (area < least) { least = area; best = index; }
    });
    if (best >= 0) press(best);
  });
}
