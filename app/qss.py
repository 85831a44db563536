"""The one style sheet of the program, built from the theme's roles.

Widgets choose their look by dynamic properties (`look`, `step`, `weight`, `tone`), set by `app.widgets.basics`.
"""

from __future__ import annotations

from string import Template

from app.theme import SIZES, Theme

_SHEET = Template("""
* { font-size: ${text_px}px; }
QWidget { color: $text; }
QMainWindow, QDialog, QWidget[look="page"], QStackedWidget { background: $surface; }
QToolTip { background: $raised; color: $text; border: 1px solid $line_strong; border-radius: 6px; padding: 6px 8px; }

QLabel { background: transparent; }
QLabel[step="tick"] { font-size: ${tick_px}px; } QLabel[step="small"] { font-size: ${small_px}px; }
QLabel[step="big"] { font-size: ${big_px}px; } QLabel[step="title"] { font-size: ${title_px}px; }
QLabel[step="figure"] { font-size: ${figure_px}px; }
QLabel[weight="500"] { font-weight: 500; } QLabel[weight="600"] { font-weight: 600; }
QLabel[tone="faded"] { color: $faded; } QLabel[tone="accent"] { color: $accent; } QLabel[tone="success"] { color: $success; }
QLabel[tone="warning"] { color: $warning; } QLabel[tone="danger"] { color: $danger; }
QLabel[mono="true"] { font-family: "$mono"; font-size: ${small_px}px; }

QFrame[look="card"] { background: $raised; border: 1px solid $line; border-radius: 8px; }
QFrame[look="card"][dropping="true"], QFrame[look="drop"][dropping="true"] { border: 2px solid $accent; }
QFrame[look="drop"] { border: 1px dashed $line_strong; border-radius: 8px; background: transparent; }
QFrame[look="hairline"] { background: $line; border: none; max-height: 1px; min-height: 1px; }
QFrame[look="upright"] { background: $line; border: none; max-width: 1px; min-width: 1px; }
QFrame[look="strip"][tone="success"] { background: $success_tint; border-radius: 8px; }
QFrame[look="strip"][tone="warning"] { background: $warning_tint; border-radius: 8px; }
QFrame[look="strip"][tone="danger"] { background: $danger_tint; border-radius: 8px; }
QFrame[look="strip"][tone="faded"] { background: $track; border-radius: 8px; }
QFrame[look="well"] { background: $well; border-radius: 6px; }
QFrame[look="rail"] { background: $surface; border: none; border-right: 1px solid $line; }
QFrame[look="status"], QFrame[look="queue"] { background: $raised; border: none; border-top: 1px solid $line; }
QFrame[look="status"] { background: $surface; }
QFrame[look="float"] { background: $raised; border: 1px solid $line_strong; border-radius: 8px; }

QLabel[look="badge"] { border-radius: 4px; padding: 3px 8px; font-size: ${small_px}px; font-weight: 500; background: $track; }
QLabel[look="badge"][tone="success"] { background: $success_tint; color: $success; }
QLabel[look="badge"][tone="warning"] { background: $warning_tint; color: $warning; }
QLabel[look="badge"][tone="danger"] { background: $danger_tint; color: $danger; }
QLabel[look="badge"][tone="accent"] { background: $accent_tint; color: $accent; }
QFrame[look="badge-box"] { border-radius: 4px; background: $track; }
QFrame[look="badge-box"][tone="success"] { background: $success_tint; }
QLabel[look="key"] { border: 1px solid $line_strong; border-radius: 3px; padding: 1px 6px; font-size: ${tick_px}px; color: $faded;
  background: $raised; }
QLabel[look="step"] { background: $accent_tint; color: $accent; border-radius: ${step_r}px; font-weight: 600; }

QPushButton { background: $raised; border: 1px solid $line_strong; border-radius: 6px; padding: 0 12px; font-weight: 500;
  min-height: ${control}px; }
QPushButton:hover { background: $hover; } QPushButton:pressed { background: $press; }
QPushButton:focus { border: 2px solid $accent; padding: 0 11px; }
QPushButton:disabled { color: $faded; border-color: $line; background: $disabled; }
QPushButton[look="primary"] { background: $accent; color: $accent_text; border: 1px solid $accent; font-weight: 600;
  min-height: ${primary}px; }
QPushButton[look="primary"]:hover { background: $accent_hover; }
QPushButton[look="primary"]:pressed { background: $accent_press; }
QPushButton[look="primary"]:focus { border: 2px solid $text; }
QPushButton[look="primary"]:disabled { background: $disabled; color: $faded; border-color: $disabled; }
QPushButton[look="ghost"] { background: transparent; border: 1px solid transparent; color: $faded; padding: 0 8px; }
QPushButton[look="ghost"]:hover { background: $hover_surface; color: $text; }
QPushButton[look="ghost"]:focus { border: 2px solid $accent; padding: 0 7px; }
QPushButton[look="ghost"]:disabled { background: transparent; }
QPushButton[dense="true"] { min-height: ${dense}px; }
QPushButton[dense="true"]:focus { min-height: ${dense_focus}px; }
QPushButton[tone="danger"] { color: $danger; } QPushButton[tone="danger"]:disabled { color: $faded; }
QPushButton::menu-indicator { width: 0; image: none; }

QToolButton { background: transparent; border: 1px solid transparent; border-radius: 6px; padding: 3px; }
QToolButton:hover { background: $hover_surface; } QToolButton:focus { border: 2px solid $accent; padding: 2px; }
QToolButton:disabled { background: transparent; }

QToolButton[look="float-tool"] { background: $raised; border: 1px solid $line_strong; border-radius: 14px; padding: 5px; }
QToolButton[look="float-tool"]:hover { background: $hover; }
QToolButton[look="float-tool"]:focus { border: 2px solid $accent; padding: 4px; }
QFrame[look="segmented"] { background: $track; border-radius: 6px; }
QPushButton[look="segment"] { background: transparent; border: 1px solid transparent; border-radius: 5px; color: $faded;
  padding: 0 10px; min-height: ${segment}px; }
QPushButton[look="segment"]:hover { color: $text; }
QPushButton[look="segment"]:checked { background: $raised; border: 1px solid $line_strong; color: $text; }
QPushButton[look="segment"]:focus { border: 2px solid $accent; padding: 0 9px; }
QPushButton[look="segment"]:disabled { color: $faded; background: transparent; }

QPushButton[look="rail"] { background: transparent; border: none; border-left: 3px solid transparent; border-radius: 6px;
  text-align: left; padding: 0 10px 0 9px; color: $faded; font-weight: 500; min-height: 36px; }
QPushButton[look="rail"]:hover { background: $hover_surface; color: $text; }
QPushButton[look="rail"]:checked { background: $accent_tint_surface; color: $text; font-weight: 600; }
QPushButton[look="rail"]:focus { border: 2px solid $accent; padding: 0 8px 0 10px; }

QPushButton[look="chip"] { background: $raised; border: 1px solid $line_strong; padding: 0 10px; min-height: ${control}px; }
QPushButton[look="chip"]:checked { background: $accent_tint; border: 1px solid $accent; }
QPushButton[look="chip"]:focus { border: 2px solid $accent; padding: 0 9px; }

QLineEdit, QPlainTextEdit, QTextEdit, QSpinBox, QDoubleSpinBox, QComboBox { background: $raised; border: 1px solid $line_strong;
  border-radius: 6px; padding: 0 8px; min-height: ${form}px; selection-background-color: $accent;
  selection-color: $accent_text; }
QPlainTextEdit, QTextEdit { padding: 6px 8px; }
QTextEdit[look="plain"], QPlainTextEdit[look="plain"], QTextBrowser[look="plain"] {
  border: none; background: transparent; padding: 0; }
QLineEdit:focus, QPlainTextEdit:focus, QTextEdit:focus, QSpinBox:focus, QDoubleSpinBox:focus, QComboBox:focus {
  border: 2px solid $accent; padding-left: 7px; }
QLineEdit:disabled, QSpinBox:disabled, QDoubleSpinBox:disabled, QComboBox:disabled { color: $faded; background: $disabled;
  border-color: $line; }
QLineEdit[wrong="true"] { border: 1px solid $danger; }
QComboBox::drop-down { border: none; width: 24px; }
QComboBox::down-arrow { image: url("$chevron"); width: 14px; height: 14px; }
QSpinBox QLineEdit, QDoubleSpinBox QLineEdit { border: none; border-radius: 0; background: transparent; padding: 0 0 0 8px;
  min-height: 0; }
QSpinBox::up-button, QSpinBox::down-button, QDoubleSpinBox::up-button, QDoubleSpinBox::down-button { border: none; width: 18px;
  background: transparent; }
QSpinBox::up-arrow, QDoubleSpinBox::up-arrow { image: url("$chevron_up"); width: 11px; height: 11px; }
QSpinBox::down-arrow, QDoubleSpinBox::down-arrow { image: url("$chevron"); width: 11px; height: 11px; }
QComboBox QAbstractItemView { background: $raised; border: 1px solid $line_strong; outline: none; padding: 4px;
  selection-background-color: $accent_tint; selection-color: $text; }

QCheckBox { spacing: 8px; background: transparent; } QRadioButton { spacing: 8px; background: transparent; }
QCheckBox:disabled { color: $faded; }
QCheckBox::indicator { width: 16px; height: 16px; border: 1px solid $line_strong; border-radius: 4px; background: $raised; }
QCheckBox::indicator:checked { background: $accent; border-color: $accent; image: url("$check"); }
QCheckBox:focus { color: $text; outline: none; } QCheckBox::indicator:focus { border: 2px solid $accent; }
QCheckBox::indicator:checked:focus { border: 2px solid $text; }
QCheckBox::indicator:disabled { border: 1px dashed $line_strong; background: $disabled; }

QProgressBar { background: $track; border: none; border-radius: 4px; max-height: 8px; min-height: 8px; text-align: center; }
QProgressBar::chunk { background: $accent; border-radius: 4px; }
QProgressBar[look="thin"] { max-height: 4px; min-height: 4px; border-radius: 2px; }
QProgressBar[look="thin"]::chunk { border-radius: 2px; }

QAbstractItemView { background: $raised; border: none; outline: none; gridline-color: $line;
  selection-background-color: $accent_tint;
  selection-color: $text; alternate-background-color: $raised; }
QTableView::item, QTreeView::item { border-bottom: 1px solid $line; padding: 0 6px; }
QTableView::item:selected, QTreeView::item:selected { background: $accent_tint; color: $text; }
QListView::item { padding: 6px 8px; border-radius: 6px; } QListView::item:selected { background: $accent_tint; color: $text; }
QListView::item:hover:!selected { background: $hover; }
QTableView:focus, QTreeView:focus, QListView:focus { border: none; }
QHeaderView { background: $raised; } QHeaderView::section { background: $raised; color: $faded; border: none;
  border-bottom: 1px solid $line; padding: 6px; font-size: ${small_px}px; font-weight: 400; }
QHeaderView::up-arrow { image: url("$chevron_up"); width: 12px; height: 12px; }
QHeaderView::down-arrow { image: url("$chevron"); width: 12px; height: 12px; }
QTableCornerButton::section { background: $raised; border: none; }

QMenu { background: $raised; border: 1px solid $line_strong; border-radius: 8px; padding: 4px; }
QMenu::item { padding: 6px 24px 6px 10px; border-radius: 4px; } QMenu::item:selected { background: $accent_tint; }
QMenu::item:disabled { color: $faded; } QMenu::separator { height: 1px; background: $line; margin: 4px 8px; }
QMenu::icon { padding-left: 8px; }

QScrollArea { background: transparent; border: none; } QAbstractScrollArea::corner { background: transparent; border: none; }
QScrollArea > QWidget > QWidget[look="body"] { background: transparent; }
QScrollBar:vertical { background: transparent; width: 10px; margin: 2px; }
QScrollBar:horizontal { background: transparent; height: 10px; margin: 2px; }
QScrollBar::handle { background: $quiet; border-radius: 3px; min-height: 28px; min-width: 28px; }
QScrollBar::handle:hover { background: $faded; }
QScrollBar::add-line, QScrollBar::sub-line { width: 0; height: 0; }
QScrollBar::add-page, QScrollBar::sub-page { background: none; }
QSlider:horizontal { min-height: 20px; }
QSlider::groove:horizontal { height: 4px; background: $track; border-radius: 2px; }
QSlider::sub-page:horizontal { background: $accent; border-radius: 2px; }
QSlider::handle:horizontal { width: 14px; height: 14px; margin: -6px 0; border-radius: 8px; border: 2px solid $accent;
  background: $raised; }
QSplitter::handle { background: transparent; }

/* Deltas: pages inside a card, narrow headings */
QFrame[look="card"] QStackedWidget { background: transparent; }
QTableView[look="tight"] QHeaderView::section { padding: 4px 2px; }

/* AxisMapCard: pages of a card */
QStackedWidget[look="clear"] { background: transparent; }

/* Chat: the conversation's bar, the prompt's, letters of columns, their heads, the composer, the drawer */
QScrollBar[idle="true"]::handle { background: transparent; }
QFrame[look="prompt"] { background: $prompt; border-radius: 8px; }
QLabel[look="letter"] { background: $accent; color: $accent_text; border-radius: 4px; font-size: ${tick_px}px; font-weight: 600;
  padding: 1px 5px; }
QPushButton[look="side"] { background: transparent; border: none; border-bottom: 2px solid $line; border-radius: 0;
  text-align: left; padding: 0; }
QPushButton[look="side"]:hover { background: $hover_surface; }
QPushButton[look="side"][chosen="true"] { border-bottom: 2px solid $accent; }
QPushButton[look="side"]:focus { border: 2px solid $accent; border-radius: 6px; padding: 0; }
QFrame[look="composer"] { background: $raised; border: 1px solid $line_strong; border-radius: 8px; }
QFrame[look="composer"][focused="true"] { border: 1px solid $accent; }
QPushButton[dense="composer"] { min-height: ${control}px; }
/* Compress, Add more: within a line of words */
QPushButton[dense="line"], QPushButton[dense="line"]:focus { min-height: ${within}px; max-height: ${within}px;
  padding: 0 4px; }
QFrame[look="drawer"] { background: $raised; border: none; border-left: 1px solid $line; border-top: 1px solid $line;
  border-top-left-radius: 8px; }
QPlainTextEdit[look="plain"]:focus { border: none; padding: 0; }
QLineEdit[look="field"] { padding: 0 7px; font-weight: 500; min-height: ${dense}px; }
QLineEdit[look="field"]:focus { padding: 0 6px; }
""")


def style_sheet(theme: Theme, icons: dict[str, str]) -> str:
    """The sheet for a theme. `icons` has the paths of the tinted pictures that a sheet can only name (see `Icons.files`)."""
    def name(role: str) -> str:
        return theme.color(role).name()

    def mix(role: str, share: float, ground: str = "surface-raised") -> str:
        return theme.mixed(role, share, ground).name()
    roles = {
        "surface": name("surface"), "raised": name("surface-raised"), "line": name("line"), "line_strong": name("line-strong"),
        "text": name("text"), "faded": name("text-faded"), "accent": name("accent"), "accent_text": name("accent-text"),
        "success": name("success"), "warning": name("warning"), "danger": name("danger"),
        "accent_tint": mix("accent", 0.11), "accent_tint_surface": mix("accent", 0.11, "surface"),
        "success_tint": mix("success", 0.12), "warning_tint": mix("warning", 0.12), "danger_tint": mix("danger", 0.12),
        "track": mix("text-faded", 0.14), "quiet": mix("text-faded", 0.42), "well": mix("text-faded", 0.09),
        "hover": mix("text-faded", 0.08), "press": mix("text-faded", 0.18), "hover_surface": mix("text-faded", 0.10, "surface"),
        "disabled": mix("text-faded", 0.10), "prompt": mix("text-faded", 0.08, "surface"),
        "accent_hover": mix("accent", 0.9, "text"), "accent_press": mix("accent", 0.8, "text"),
    }
    lengths = {f"{size}_px": theme.px(px) for size, px in SIZES.items()}
    heights = {"control": theme.px(30), "form": theme.px(28), "dense": theme.px(26), "within": theme.px(14),
               "dense_focus": theme.px(26) - 2,
               "primary": theme.px(34), "segment": theme.px(26), "step_r": theme.px(11)}
    return _SHEET.substitute(roles | {k: str(v) for k, v in (lengths | heights).items()} | icons | {"mono": theme.mono_family})
