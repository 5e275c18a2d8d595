"""The architecture, kept by tests: who imports whom, how long things are, how loops and kernels are written.

Each rule is a function from a parsed file to a list of complaints. It is tried on planted sources first, then on the files.
"""

import ast
import re
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MADE_BY_TOOLS = {"env", "html", "results", "__pycache__"}
DOORS_TO_CUDA = {"core/cuda/ptx.py"}
# What a part of the package may import of the package, besides itself. Parts that are not named stand on all others.
MAY_IMPORT = {
    "core": set(),
    "layers": {"core"},
    **{part: {"core", "layers"} for part in ("losses", "optim", "sequential", "linalg", "spectral")},
    "schedules": {"core", "optim"},
    "graph": {"core", "layers", "sequential"},
}
ROLES = ["Out", "Saved", "Scratch", "In"]
ALLOCATORS = re.compile(r"(empty|zeros|ones|full)(_like)?|array|asarray|ascontiguousarray|copy|arange|linspace|eye|tile|"
                        r"concatenate|([hv]|d|column_)?stack|repeat|pad|where|dot|outer|sort|argsort|cumsum")  # fmt: skip
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def python_files(*folders: str) -> list[str]:
    """Python files of these folders, as paths from the root."""
    paths = (path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path.as_posix() for path in paths if not MADE_BY_TOOLS & set(path.parts))


PACKAGE_FILES = python_files("numba_nn")
ALL_FILES = python_files("numba_nn", "tests", "asv_benchmarks", "examples")


def parse(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"), file)


def planted(source: str) -> ast.Module:
    return ast.parse(textwrap.dedent(source))


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]


def last_name(node: ast.AST) -> str:
    """The ``c`` of ``c``, ``a.b.c`` and of a call of either."""
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def kernels(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [f for f in functions(tree) if any(last_name(d) in ("kernel", "portable") for d in f.decorator_list)]


# Imports


def imported_names(tree: ast.AST, file: str) -> Iterator[str]:
    """Everything that a file imports, as absolute dotted names; ``numba.cuda`` reached as an attribute counts."""
    folder = Path(file).parent.parts
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                above = folder[: len(folder) - level + 1] if level else ()
                base = ".".join([*above, *([module] if module else [])])
                yield from (f"{base}.{alias.name}" for alias in names)
            case ast.Attribute(attr="cuda", value=ast.Name(id="numba" | "nb")):
                yield "numba.cuda"
            case ast.Call(args=[ast.Constant(value=str(name)), *_]) if last_name(node) in ("import_module", "__import__"):
                yield name


def wrong_imports(tree: ast.AST, file: str) -> list[str]:
    """Imports against the one-way rule, and of ``numba.cuda`` by any but its two doors."""
    inner = file.removeprefix("numba_nn/")
    part = inner.split("/")[0].removesuffix(".py")
    complaints = []
    for name in imported_names(tree, file):
        top, _, rest = name.partition(".")
        target = rest.split(".")[0]
        if top == "numba_nn" and part in MAY_IMPORT and target not in MAY_IMPORT[part] | {part}:
            complaints.append(f"{part} imports {name}")
        is_cuda = f"{name}.".startswith("numba.cuda.") or top == "numba_cuda"
        if is_cuda and inner not in DOORS_TO_CUDA:
            complaints.append(f"{inner} imports {name}")
    return complaints


@pytest.mark.parametrize(
    ("file", "source", "count"),
    [
        ("core/device.py", "from numba_nn.core.kernel import kernel", 0),
        ("core/device.py", "from numba_nn.layers.linear import Linear", 1),
        ("core/device.py", "def f():\n    import numba_nn", 1),
        ("core/device.py", "from ..layers import linear", 1),
        ("core/device.py", "from . import kernel\nfrom .kernel import In", 0),
        ("layers/linear.py", "from numba_nn.layers.conv import Conv2d\nimport numpy", 0),
        ("layers/linear.py", "from numba_nn import Linear", 1),
        ("sequential.py", "import numba_nn.train", 1),
        ("train.py", "from numba_nn import Linear\nimport numba_nn.sequential", 0),
        ("layers/linear.py", "from numba import cuda as c", 1),
        ("layers/linear.py", "import numba\nnumba.cuda.jit", 1),
        ("layers/linear.py", "importlib.import_module('numba.cuda.random')", 1),
        ("layers/linear.py", "from numba import prange, njit", 0),
        ("core/cuda/ptx.py", "from numba import cuda", 0),
        ("train.py", "import numba_cuda.numba.cuda", 1),
    ],
)
def test_wrong_imports_are_seen(file: str, source: str, count: int) -> None:
    assert len(wrong_imports(planted(source), f"numba_nn/{file}")) == count


@pytest.mark.parametrize("file", PACKAGE_FILES)
def test_imports_run_one_way(file: str) -> None:
    assert wrong_imports(parse(file), file) == []


# Sizes


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement after the docstring to the end."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_body_lines_leave_out_the_docstring() -> None:
    (function,) = functions(
        planted('def f(\n    x,\n):\n    """One.\n\n    Two.\n    """\n    y = (\n        x)\n\n    return y')
    )
    assert body_lines(function) == 4


@pytest.mark.parametrize("file", ALL_FILES)
def test_files_and_functions_are_short(file: str) -> None:
    lines = (ROOT / file).read_text(encoding="utf-8").count("\n")
    assert lines <= 400
    assert [f"{f.name}: {body_lines(f)} lines" for f in functions(parse(file)) if body_lines(f) > 40] == []


def test_the_map_names_every_module_that_has_no_family() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("Imports run one way")[0]
    bases = {"elementwise.py", "from_output.py", "image.py"}
    files = [Path(f) for f in python_files(*(f"numba_nn/{part}" for part in ("core", "losses", "ops", "optim", "train")))]
    names = Counter(f.name for f in files if f.name != "__init__.py")  # one for each folder that has a file of this name
    assert [name for name, count in names.items() if len(re.findall(rf"\b{name}\b", text)) < count] == []
    assert [name for name in bases if name not in text or not (ROOT / "numba_nn" / "layers" / name).exists()] == []


def test_nothing_is_called_utils() -> None:
    assert [file for file in ALL_FILES if re.search(r"\butils?\b", file)] == []


# Loops over all threads


class CarriedNames(ast.NodeVisitor):
    """Names that one pass of a ``prange`` body reads before it writes them: what another pass wrote, in whatever order.

    ``total += x[i]``, ``top = max(top, x[i])`` and ``if x[i] > top: top = x[i]`` are all of this kind.
    """

    def __init__(self, loop: ast.For) -> None:
        stored = (n for statement in loop.body for n in ast.walk(statement) if isinstance(n, ast.Name))
        self.written = {n.id for n in stored if isinstance(n.ctx, ast.Store)}
        self.private = {n.id for n in ast.walk(loop.target) if isinstance(n, ast.Name)}
        self.carried: list[str] = []
        self.visit_all(loop.body)

    def visit_all(self, nodes: list[ast.stmt]) -> None:
        for node in nodes:
            self.visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self.private.add(node.id)
        elif node.id in self.written - self.private:
            self.carried.append(f"line {node.lineno}: '{node.id}' is carried from one pass of a prange to another")

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self.visit_Name(ast.copy_location(ast.Name(node.target.id, ast.Load()), node))
        self.visit(node.value)
        self.visit(node.target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
            self.visit(node.target)

    def visit_For(self, node: ast.For) -> None:
        if last_name(node.iter) == "prange":
            return  # has a walk of its own
        self.visit(node.iter)
        self.visit(node.target)
        self.visit_all(node.body + node.orelse)

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        before = set(self.private)
        self.visit_all(node.body)
        after_body, self.private = self.private, before
        self.visit_all(node.orelse)
        self.private |= after_body


def prange_loops(tree: ast.AST) -> list[ast.For]:
    loops = (node for node in ast.walk(tree) if isinstance(node, ast.For))
    return [loop for loop in loops if isinstance(loop.iter, ast.Call) and last_name(loop.iter) == "prange"]


def scalar_reductions(tree: ast.AST) -> list[str]:
    return [complaint for loop in prange_loops(tree) for complaint in CarriedNames(loop).carried]


def test_prange_is_never_imported_under_another_name() -> None:
    names = (a for f in PACKAGE_FILES for n in ast.walk(parse(f)) if isinstance(n, ast.ImportFrom) for a in n.names)
    assert [a.asname for a in names if a.name == "prange" and a.asname] == []


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ("total += x[i]", 1),
        ("total = total + x[i]", 1),
        ("top = max(top, x[i])", 1),
        ("if x[i] > top:\n    top = x[i]", 1),
        ("for j in range(3):\n    total += x[i, j]", 1),
        ("if x[i] > 0:\n    total = 0.0\nelse:\n    total += x[i]", 1),
        ("a, b = x[i], 1.0\nfor j in prange(3):\n    a += b", 1),
        ("total: float = total + 1.0", 1),
        ("total = 0.0\nfor j in range(3):\n    total += x[i, j]\ny[i] = total", 0),
        ("y[i] += x[i]", 0),
        ("low, high = x[i], x[i]\nlow -= 1.0\nhigh = high + low", 0),
        ("if x[i] > 0:\n    s = 1.0\nelse:\n    s = 2.0\ny[i] = s", 0),
        ("total: float = 0.0\ntotal += scale", 0),
        ("for j in range(3):\n    j = j + i\n    y[j] = scale", 0),
    ],
)
def test_scalar_reductions_are_seen(body: str, count: int) -> None:
    loop = "for i in numba.prange(x.size):\n" + textwrap.indent(body, "    ")
    source = "def f(y, x, scale):\n    total = top = 0.0\n" + textwrap.indent(loop, "    ")
    assert len(scalar_reductions(planted(source))) == count


def test_serial_reductions_are_not_complained_of() -> None:
    assert scalar_reductions(planted("for i in range(3):\n    total += i")) == []


@pytest.mark.parametrize("file", [*PACKAGE_FILES, *python_files("examples")])
def test_no_prange_reduces_into_a_scalar(file: str) -> None:
    assert scalar_reductions(parse(file)) == []


def branching_bounds(tree: ast.AST) -> list[str]:
    """Loops over all threads that Numba leaves to one, without a word: their number of passes is chosen within ``prange``."""
    loops = [loop for loop in prange_loops(tree) if any(isinstance(n, (ast.IfExp, ast.BoolOp)) for n in ast.walk(loop.iter))]
    return [f"line {loop.lineno}: give the number of passes a name before the loop, or it runs on one thread" for loop in loops]


def test_branching_bounds_are_seen() -> None:
    assert (
        len(branching_bounds(planted("for i in prange(n if n > 0 else 0):\n    pass\nfor i in prange(n or 1):\n    pass"))) == 2
    )
    assert branching_bounds(planted("m = n if n > 0 else 0\nfor i in prange(m):\n    pass")) == []


@pytest.mark.parametrize("file", [*PACKAGE_FILES, *python_files("examples")])
def test_no_prange_chooses_its_bound(file: str) -> None:
    assert branching_bounds(parse(file)) == []


# Kernels


def role_rank(argument: ast.arg) -> int:
    role = last_name(argument.annotation) if argument.annotation else ""
    return ROLES.index(role) if role in ROLES else len(ROLES)


def kernel_faults(tree: ast.Module, file: str) -> list[str]:
    """What keeps the kernels of a file from being read like all others; in core, an op without passes is named alone."""
    passes = "*" if file.startswith("numba_nn/core/") else "+"
    faults = []
    for function in kernels(tree):
        arguments = function.args
        ranks = [role_rank(a) for a in arguments.args]
        wrong = {
            "is not at module level": function not in tree.body,
            "is not named <op>_<pass>": not re.fullmatch(rf"_?[a-z][a-z0-9]*(_[a-z0-9]+){passes}", function.name),
            "has defaults": bool(arguments.defaults or arguments.kw_defaults),
            "has starred or keyword-only arguments": bool(arguments.vararg or arguments.kwarg or arguments.kwonlyargs),
            "has an argument without a role": not all(a.annotation for a in arguments.args),
            "has its arguments out of order (Out, Saved, Scratch, In, scalars)": ranks != sorted(ranks),
            "has no docstring": ast.get_docstring(function) is None,
            "allocates": bool(allocations(function)),
        }
        faults += [f"line {function.lineno}: {function.name} {fault}" for fault, found in wrong.items() if found]
    return faults


def allocations(function: ast.AST) -> list[str]:
    """Calls that make an array: NumPy's constructors, and the methods ``copy``, ``astype`` and ``flatten``."""
    found = []
    for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Attribute):
            of_numpy = last_name(call.func.value) in ("np", "numpy")
            name = call.func.attr
            if (of_numpy and ALLOCATORS.fullmatch(name)) or name in ("copy", "astype", "flatten"):
                found.append(name)
    return found


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("@kernel\ndef relu_forward(y: Out, x: In, n: int):\n    'Y.'", ""),
        (
            "@kernel\ndef a_b(dx: Out, s: Saved, t: Scratch, x: In, w: In, n: float):\n    'Y.'\n    dx.reshape(3)",
            "",
        ),
        ("def helper(n=3):\n    return np.empty(n)", ""),
        ("def f():\n    @kernel\n    def a_b(y: Out):\n        'Y.'", "module level"),
        ("@kernel\ndef relu(y: Out):\n    'Y.'", "<op>_<pass>"),
        ("@kernel\ndef Relu_forward(y: Out):\n    'Y.'", "<op>_<pass>"),
        ("@kernel\ndef a_b(y: Out, n: int = 3):\n    'Y.'", "defaults"),
        ("@kernel\ndef a_b(y: Out, *x: In):\n    'Y.'", "starred"),
        ("@kernel\ndef a_b(y: Out, x):\n    'Y.'", "without a role"),
        ("@kernel\ndef a_b(x: In, y: Out):\n    'Y.'", "out of order"),
        ("@kernel\ndef a_b(y: Out, n: int, x: In):\n    'Y.'", "out of order"),
        ("@kernel\ndef a_b(y: roles.Out):\n    pass", "docstring"),
        ("@kernel\ndef a_b(y: Out):\n    'Y.'\n    t = np.zeros(3)", "allocates"),
        ("@kernel\ndef a_b(y: Out):\n    'Y.'\n    t = y.copy()", "allocates"),
    ],
)
def test_kernel_faults_are_seen(source: str, fault: str) -> None:
    faults = kernel_faults(planted(source), "numba_nn/layers/relu.py")
    assert len(faults) == bool(fault)
    assert all(fault in text for text in faults)


def test_kernels_of_core_may_be_an_op_alone() -> None:
    gemm, shouted = planted("@kernel\ndef gemm(c: Out):\n    'C.'"), planted("@kernel\ndef GEMM(c: Out):\n    'C.'")
    assert kernel_faults(gemm, "numba_nn/core/product/gemm.py") == []
    assert len(kernel_faults(shouted, "numba_nn/core/product/gemm.py")) == 1


@pytest.mark.parametrize("file", PACKAGE_FILES)
def test_kernels_are_written_alike(file: str) -> None:
    assert kernel_faults(parse(file), file) == []


def unannotated_methods(tree: ast.Module) -> list[str]:
    """Methods without a return type; mypy is told to let these pass where kernels live, since kernels have none."""
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    return [f"{c.name}.{f.name}" for c in classes for f in c.body if isinstance(f, FUNCTIONS) and f.returns is None]


def test_unannotated_methods_are_seen() -> None:
    assert unannotated_methods(planted("class A:\n    def f(self): ...\n    def g(self) -> None: ...")) == ["A.f"]


@pytest.mark.parametrize("file", PACKAGE_FILES)
def test_methods_say_what_they_return(file: str) -> None:
    assert unannotated_methods(parse(file)) == []
