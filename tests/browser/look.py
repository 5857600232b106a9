"""Opens a page in Chromium, in both themes and at two widths; prints what was seen as JSON.

Runs in an environment with playwright: look.py PAGE FOLDER CHROMIUM. Screenshots go into FOLDER.
"""

import json
import sys
from typing import Any

from playwright.sync_api import Page, sync_playwright

WAIT_MS = 300
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


def look(page: Page, address: str, picture: str) -> dict[str, Any]:
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url.split(":")[0]))
    page.goto(address)
    page.screenshot(path=f"{picture}.png")
    overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.keyboard.press("Tab")
    first = page.evaluate("document.activeElement.className")
    page.locator(".gallery a").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_timeout(WAIT_MS)  # not wait_for_function: the page's policy forbids eval
    opened = page.evaluate("document.activeElement.tagName")
    page.screenshot(path=f"{picture}-sample.png")
    page.keyboard.press("Escape")
    page.wait_for_timeout(WAIT_MS)
    returned = page.evaluate("Boolean(document.activeElement.closest('.gallery'))")
    page.locator("#class").select_option("1")
    labels = page.evaluate(
        "[...new Set([...document.querySelectorAll('.gallery li[data-class]:not([hidden])')].map(i => i.dataset.class))]"
    )
    pictures = page.evaluate(
        "[...document.images].filter(i => i.getClientRects().length).every(i => i.naturalWidth > 0)"
    )
    return {
        "said": said, "asked": sorted(set(asked)), "overflow": overflow, "back": back, "first": first,
        "labels": labels, "opened": opened, "returned": returned, "pictures": pictures,
    }  # fmt: skip


def main(path: str, folder: str, chromium: str) -> None:
    seen = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for theme in ("light", "dark"):
            for name, (width, height) in SIZES.items():
                context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
                seen[f"{theme} {name}"] = look(context.new_page(), f"file://{path}", f"{folder}/{theme}-{name}")
        browser.close()
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
