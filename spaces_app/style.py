"""How the page looks: theme, style sheet and the few lines of script. Nothing is fetched from elsewhere."""

import gradio as gr

_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei"]


def page_theme() -> gr.themes.Base:
    """Slate with one accent, fonts of the visitor's own system."""
    return gr.themes.Default(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=[*_FONTS, "sans-serif"],
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    ).set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
        block_shadow="none",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
    )


STYLE = """
.gradio-container { max-width: 1320px !important; margin: 0 auto !important; }
#top { align-items: center; flex-wrap: wrap; gap: 8px 20px; padding-bottom: 2px; }
#top > * { border: 0 !important; background: transparent !important; }
#brand { min-width: 0 !important; flex: 1 1 280px !important; }
#brand h1 { font-size: 1.5rem; line-height: 1.2; margin: 0; letter-spacing: -.01em; }
#brand p { margin: 2px 0 0; color: var(--body-text-color-subdued); font-size: .95rem; line-height: 1.45; }
#tools { flex: 0 0 auto !important; width: auto !important; min-width: 0 !important; gap: 10px; align-items: center;
  flex-wrap: nowrap; overflow: visible; }
#tools > * { flex: 0 0 auto !important; width: auto !important; min-width: 0 !important;
  overflow: visible !important; }
#language .wrap { flex-wrap: nowrap; gap: 6px; } #language label { padding: 5px 10px; }
#theme-button { white-space: nowrap; padding: 6px 12px; }
#brand .html-container, .ag-head .html-container, #verdict .html-container, #regions .html-container,
#evidence .html-container { padding: 0 !important; }
.ag-head { margin: 4px 0 -4px !important; }
.ag-head h2 { font-size: 1rem; margin: 0; font-weight: 650; }
.ag-head p { margin: 1px 0 0; font-size: .85rem; color: var(--body-text-color-subdued); }
.ag-card { --tone: #64748b; border: 1px solid var(--border-color-primary); border-left: 5px solid var(--tone);
  border-radius: 10px; background: var(--block-background-fill); padding: 14px 18px 15px; }
.ag-card header { display: flex; align-items: center; gap: 10px; }
.ag-card h3 { margin: 0; font-size: 1.25rem; line-height: 1.25; color: var(--body-text-color); }
.ag-card p { margin: 6px 0 0; font-size: 1rem; line-height: 1.5; color: var(--body-text-color);
  overflow-wrap: anywhere; }
.ag-dot { width: 13px; height: 13px; border-radius: 50%; background: var(--tone); flex: none; }
.ag-anomalous { --tone: #d9322c; } .ag-normal { --tone: #14935f; } .ag-uncertain { --tone: #d18700; }
.ag-error { --tone: #b45309; } .ag-busy { --tone: #0d9488; }
.ag-steps { margin: 8px 0 0; padding-left: 22px; line-height: 1.65; color: var(--body-text-color-subdued); }
.ag-reasons { margin: 9px 0 0; padding-left: 19px; font-size: .9rem; line-height: 1.55;
  color: var(--body-text-color-subdued); list-style: disc; overflow-wrap: anywhere; }
.ag-meter { margin-top: 12px; }
.ag-meter > div { position: relative; height: 9px; border-radius: 5px; background: var(--border-color-primary); }
.ag-meter i { display: block; height: 100%; border-radius: 5px; background: var(--tone); }
.ag-meter s { position: absolute; left: 50%; top: -4px; bottom: -4px; width: 2px; background: var(--body-text-color); }
.ag-meter small { display: block; margin-top: 6px; font-size: .82rem; color: var(--body-text-color-subdued); }
.ag-run { margin-top: 12px; height: 5px; border-radius: 3px; overflow: hidden;
  background: var(--border-color-primary); }
.ag-run i { display: block; width: 35%; height: 100%; background: var(--tone); animation: ag-run 1.2s infinite ease; }
@keyframes ag-run { from { margin-left: -35%; } to { margin-left: 100%; } }
.ag-scroll { overflow-x: auto; }
.ag-scroll { border: 1px solid var(--border-color-primary); border-radius: 8px;
  background: var(--block-background-fill); }
.ag-table, .ag-facts { width: 100%; border-collapse: collapse; font-size: .9rem; margin: 0 !important;
  border: 0 !important; }
.ag-table thead, .ag-table tr, .ag-facts tr { background: transparent !important; border: 0 !important; }
.ag-table th, .ag-table td, .ag-facts th, .ag-facts td { text-align: left; padding: 7px 10px; border: 0;
  border-bottom: 1px solid var(--border-color-primary); color: var(--body-text-color); overflow-wrap: anywhere; }
.ag-table td:nth-child(n+3), .ag-table th:nth-child(n+3) { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.ag-table th, .ag-facts th { font-weight: 600; font-size: .82rem; color: var(--body-text-color-subdued); }
.ag-facts th { width: 42%; }
.ag-table tr:last-child td, .ag-facts tr:last-child > * { border-bottom: 0; }
.ag-table tbody tr[data-region] { cursor: pointer; }
.ag-table tbody tr[data-region]:hover { background: var(--background-fill-secondary); }
.ag-none { margin: 6px 2px; font-size: .9rem; color: var(--body-text-color-subdued); }
#region { gap: 8px; border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 12px 14px;
  background: var(--block-background-fill); }
#region > *, #region .html-container { padding: 0 !important; border: 0 !important; }
.ag-region h4 { margin: 2px 0 8px; font-size: 1rem; color: var(--body-text-color); }
.ag-numbers { display: flex; flex-wrap: wrap; gap: 8px 26px; }
.ag-numbers span { display: flex; flex-direction: column; }
.ag-numbers b { font-variant-numeric: tabular-nums; color: var(--body-text-color); }
.ag-numbers small { color: var(--body-text-color-subdued); }
#overlay .image-container, #overlay img { cursor: pointer; }
#run-row { gap: 8px; } #run-row #stop { flex: 0 0 auto; min-width: 88px !important; }
#ask-row { gap: 8px; align-items: stretch; } #ask-row button { flex: 0 0 auto; min-width: 76px !important; }
#suggestions { gap: 6px; flex-wrap: wrap; }
#suggestions button { flex: 0 1 auto !important; min-width: 0 !important; border-radius: 999px; font-weight: 500; }
#examples .grid-wrap { max-height: none; min-height: 0 !important; overflow: visible; }
#references .grid-wrap { min-height: 0 !important; }
#references .grid-container { grid-template-columns: repeat(4, minmax(0, 1fr)) !important; padding-top: 24px; }
#examples, #examples > * { height: auto !important; min-height: 0; }
#examples .grid-container { grid-template-columns: repeat(3, minmax(0, 1fr)) !important; }
#examples .caption-label { font-size: .78rem; max-width: 94%; opacity: .95; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; }
#batch-table th, #batch-table td { font-family: inherit; }
#batch-intro .html-container, #batch-state .html-container { padding: 0 !important; }
#batch-intro p { color: var(--body-text-color-subdued); }
footer { margin-top: 12px !important; }
footer .divider { display: none !important; }
#chatbot img { max-height: 250px; width: auto; }
#chatbot [aria-label=Share], #chatbot [title=Share] { display: none; }
@media (max-width: 700px) {
  #brand h1 { font-size: 1.3rem; } .ag-card { padding: 12px 13px 13px; }
  .ag-table th, .ag-table td { padding: 6px 6px; }
}
"""

# A click on the overlay, or on a row of the table, presses the button of the region that lies there. The masks are
# read with a canvas, the smallest region under the click wins.
SCRIPT = """
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
"""

# What lies outside the page's own container is out of reach of `css=`.
HEAD = """<style>.gradio-container { padding: 10px 14px !important; }
@media (max-width: 700px) {
  .gradio-container { padding: 4px !important; } .gradio-container .main.app { padding: 8px !important; }
}</style>
<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' \
viewBox='0 0 32 32'%3E\
%3Ccircle cx='14' cy='14' r='9' fill='none' stroke='%230d9488' stroke-width='4'/%3E\
%3Cpath d='M21 21l8 8' stroke='%230d9488' stroke-width='4' stroke-linecap='round'/%3E\
%3Ccircle cx='14' cy='14' r='3' fill='%23d9322c'/%3E%3C/svg%3E">"""

TOGGLE_THEME = "() => { document.body.classList.toggle('dark'); }"
BROWSER_LANGUAGE = "() => (navigator.language || 'en').toLowerCase().startsWith('zh') ? 'zh' : 'en'"
SHOW_VERDICT = """(language) => {
  if (window.innerWidth < 900) {
    document.getElementById('verdict')?.scrollIntoView({ behavior: 'smooth', block: 'start' });
  }
  return language;
}"""

__all__ = ["BROWSER_LANGUAGE", "HEAD", "SCRIPT", "SHOW_VERDICT", "STYLE", "TOGGLE_THEME", "page_theme"]
