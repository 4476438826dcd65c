"""Theme of the page: colours, type and spacing. The look of single parts is in `assets/page.css`."""

import gradio as gr
from gradio.themes.utils import colors, sizes

# Ink blue on paper. White on 600 and 600 on white have a contrast of 6.9; WCAG's level AA asks for 4.5.
INK = colors.Color(
    name="ink", c50="#f0f4fc", c100="#dde7f8", c200="#bfd1f1", c300="#94b2e7", c400="#6a90da", c500="#4470c8",
    c600="#2c55a8", c700="#244488", c800="#1f376c", c900="#1b2d55", c950="#121d38",
)  # fmt: skip
STONE = colors.Color(
    name="stone", c50="#faf8f5", c100="#f3f0ea", c200="#e6e1d8", c300="#d2cbbf", c400="#a39b8e", c500="#7a7368",
    c600="#5c564d", c700="#443f38", c800="#2a2723", c900="#1c1a18", c950="#131211",
)  # fmt: skip
FONT = ("Inter", "Segoe UI", "Helvetica Neue", "Arial", "sans-serif")


def make_theme() -> gr.themes.Base:
    """Build the theme; it loads no fonts from other servers."""
    theme = gr.themes.Base(
        primary_hue=INK,
        secondary_hue=INK,
        neutral_hue=STONE,
        font=FONT,
        font_mono=("ui-monospace", "Consolas", "monospace"),
        radius_size=sizes.radius_lg,
        spacing_size=sizes.spacing_md,
        text_size=sizes.text_md,
    )
    return theme.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="*neutral_900",
        body_text_color="*neutral_900",
        body_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_background_fill="#ffffff",
        block_background_fill_dark="*neutral_900",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        block_title_text_weight="600",
        block_title_text_color="*neutral_900",
        block_title_text_color_dark="*neutral_100",
        input_background_fill="*neutral_50",
        input_background_fill_dark="*neutral_950",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="#ffffff",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_dark="*neutral_800",
        button_border_width="1px",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
        checkbox_background_color_selected="*primary_600",
        checkbox_border_color="*neutral_500",
        block_shadow="none",
    )
