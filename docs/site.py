"""The pages of the site (mkdocs.yml): files of the repository, at the places that they have there, so that links hold.

A link to a file or folder that is no page leads to one that shows it. Under Reference the navigation names modules,
whose pages mkdocstrings writes, and packages, which have a page for each module.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<=\]\()[\w./-]+(?=\))")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replaces the files of docs/ by those of the whole site."""
    for file in [file for file in files if file.src_dir == config.docs_dir]:
        files.remove(file)
        if not file.is_documentation_page():
            files.append(File.generated(config, f"docs/{file.src_uri}", abs_src_path=str(file.abs_src_path)))
    texts = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for folder in (ROOT, ROOT / "docs")
        for path in sorted(folder.glob("*.md"))
    }
    shown = {}
    for page, text in texts.items():

        def target(link: re.Match[str], page: str = page) -> str:
            path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link[0]))
            if path in texts or path.endswith(".png") or not (ROOT / path).exists():
                return link[0]
            shown[f"{path}.md"] = showing(path)
            return f"{link[0]}.md"

        texts[page] = LINK.sub(target, text)
    for part in config.nav or []:
        if "Reference" in part:
            texts |= {path_of(module): f"::: {module}\n" for name in part["Reference"] for module in modules(name)}
            part["Reference"] = [entry(name) for name in part["Reference"]]
    for page, text in (texts | shown).items():
        files.append(File.generated(config, page, content=text))
    return files


def showing(path: str) -> str:
    """A page, not searched, that shows a file, or the names of the files in a folder."""
    file = ROOT / path
    text = "\n".join(sorted(x.name for x in file.glob("[!_]*.*"))) if file.is_dir() else file.read_text("utf-8")
    fence = "~" * 6
    unsearched = "---\nsearch: {exclude: true}\n---\n\n"
    return f"{unsearched}# {path}\n\n{fence} {LANGUAGES.get(file.suffix, 'text')}\n{text}\n{fence}\n"


def modules(name: str) -> list[str]:
    """The name of a module, or that of a package and those of its modules."""
    return [name, *(f"{name}.{path.stem}" for path in sorted(folder_of(name).glob("[!_]*.py")))]


def entry(name: str) -> dict[str, Any]:
    """What the navigation says of a module or package."""
    title = name.removeprefix("rlcore.")
    package, *inside = modules(name)
    pages = [{module.rpartition(".")[2]: path_of(module)} for module in inside]
    return {title: [path_of(package), *pages] if inside else path_of(package)}


def path_of(module: str) -> str:
    """Where the page of a module is; that of a package is the first of its section."""
    return f"reference/{module.replace('.', '/')}{'/index' if folder_of(module).is_dir() else ''}.md"


def folder_of(module: str) -> Path:
    """The folder of a package."""
    return ROOT / module.replace(".", "/")
