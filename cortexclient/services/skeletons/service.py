"""Skeletons of neurons with their synapses and properties, at the client's moment."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

from cortexclient.files import write_text
from cortexclient.ids import as_id, as_ids, is_one
from cortexclient.services import BaseService
from cortexclient.services.datastack import require_own
from cortexclient.services.navis_neurons import require_navis
from cortexclient.services.skeletons.load import SkeletonBatches, SkeletonLoader
from cortexclient.services.skeletons.shapes import shape_of
from cortexclient.services.skeletons.source import stored_skeletons
from cortexclient.session import as_choice

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeAlias

    from cortexclient.services.skeletons.load import Output
    from cortexclient.services.skeletons.shapes import Unit
    from cortexclient.services.space import Space
    from cortexclient.session import Session
    from cortexclient.types import Ids, PathLike, TransformName

    ReferenceTables: TypeAlias = str | Sequence[str] | Mapping[str, str | Sequence[str]]

__all__ = ["SkeletonsService"]

_COMPUTE = "fallback='compute' makes one here from the level-2 graph"
_LARGEST_VERSION = 1_000_000  # roots are larger


class SkeletonsService(BaseService):
    """Methods about skeletons."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._space: Space | None = None

    def get_skeleton(
        self,
        root_id: int,
        synapses: bool = True,
        restore_graph: bool = False,
        restore_properties: bool = True,
        synapse_reference_tables: Mapping[str, str | Sequence[str]] | None = None,
        skeleton_version: int | None = None,
        transform: TransformName | None = None,
        *,
        reference_tables: ReferenceTables | None = None,
        output: Output = "meshwork",
        deadline: float = 120.0,
        fallback: Literal["compute"] | None = None,
    ) -> Any:
        """Return a neuron: its skeleton, with compartments, synapses and the properties of its level-2 ids.

        Parameters
        ----------
        root_id : int
            The neuron.
        synapses : bool
            Add all synapses as ``anno.pre_syn`` and ``anno.post_syn``, without those of the neuron with itself.
        restore_graph : bool
            Also restore the level-2 graph in ``mesh``; without it only its vertices, at their skeleton vertices.
        restore_properties : bool
            Add ``anno.vol_prop`` (volume, area, distance transform of each level-2 id) and ``anno.segment_properties``
            (length, effective radius, Strahler number of each unbranched segment).
        synapse_reference_tables : dict, optional
            ``"pre"``, ``"post"`` -> reference table or tables whose columns are added to those synapses.
        reference_tables : str, sequence of str or dict, optional
            The same under cortical-tools' name; tables that are not in a dict are added to both sides.
        skeleton_version : int, optional
            Version of the service's skeletons; default the spec's, or 4.
        transform : {"rigid", "streamline"}, optional
            Move the neuron into cortical space (um, pia at y = 0): skeleton, mesh and every synapse position alike.
            ``streamline`` measures from the root and straightens the course of neurites. ``radius`` and the properties
            stay in nm.
        output : {"meshwork", "cell", "navis", "dict", "swc"}
            A Meshwork; an ossify Cell (needs the extra ``ossify``); a navis TreeNeuron (needs the extra ``navis``); the
            service's skeleton as a dict of arrays; or a text in SWC (um). The last two carry neither synapses nor
            properties.
        deadline : float
            Seconds to wait for a skeleton that the service has not made yet; it gets one request to make it, and
            with 0 none.
        fallback : {"compute"}, optional
            Where the service has no skeleton, refuses to make one or does not make it in time, compute it here by
            ``pcg_skel`` from the level-2 graph. Such a skeleton says so in ``skeleton.meta.skeleton_type`` (of a dict:
            in ``meta``), and has neither compartments nor radii.

        Returns
        -------
        meshparty.meshwork.Meshwork or another output
            ``skeleton`` in nm (um if transformed), ``anno.lvl2_ids``, ``anno.compartment`` (1 soma, 2 axon, 3 dendrite)
            and ``anno.is_axon`` where the service knows compartments. Ids are int64. Every output knows the unit
            (``"nm"`` or ``"um"``) and the space (``"volume"``, ``"rigid"`` or ``"streamline"``) of its positions:
            ``neuron.unit`` and ``neuron.space`` of a Meshwork (where they survive masks, copies and pickles) and of an
            SWC text; ``cell.meta["unit"]`` and ``["space"]``; ``data["unit"]`` and ``["space"]``; ``neuron.units`` and
            ``neuron.space`` of a TreeNeuron.

            A TreeNeuron has one node for each vertex, with ``compartment`` (``undefined``, ``soma``, ``axon``,
            ``dendrite``), the same as SWC's number in ``label``, and the radius in the unit of the positions, 0 where
            it is unknown; ``soma``, the node of the cell body, or None; and ``connectors``, one row for each synapse:
            ``connector_id``, ``node_id``, ``type`` (``pre``, ``post``), ``partner_id`` (the other root), ``x``, ``y``,
            ``z``, and the columns of the table that hold no place. It has neither the level-2 graph nor properties.

        Raises
        ------
        ValueError
            If the transform, the version or a key of the reference tables is unknown, or reference tables are given
            where no synapses come.
        StaleRootError
            If the id is no root, or was not valid at a pinned client's moment. A floating client reads the synapses
            of the version of its tables; where that does not have the root, those of the last time it was valid.
        MissingDataError
            If the service refuses to make a skeleton of this root, or level-2 data that it needs lack.
        ServiceTimeoutError
            If the service has not made the skeleton within the deadline.
        NotConfiguredError
            If the spec denies a service that is needed (``capabilities``), or has no ``transform`` for one.
        MissingExtraError
            If ``output`` is ``"cell"`` and ossify is not installed, or ``"navis"`` and navis is not.
        IncompleteResultError
            If the server truncates synapses, and they cannot be completed.

        Examples
        --------
        >>> neuron = client.get_skeleton(root_id, transform="rigid")
        >>> neuron.anno.pre_syn.df["pre_pt_root_id"].unique().tolist() == [root_id]
        True
        """
        [(_, neuron)] = self.get_skeletons(
            [as_id(root_id, "root_id")],
            synapses=synapses,
            restore_graph=restore_graph,
            restore_properties=restore_properties,
            synapse_reference_tables=synapse_reference_tables,
            reference_tables=reference_tables,
            skeleton_version=skeleton_version,
            transform=transform,
            output=output,
            deadline=deadline,
            fallback=fallback,
            errors="raise",
            progress=False,
        )
        return neuron

    def get_skeletons(
        self,
        root_ids: Ids,
        *,
        synapses: bool = True,
        restore_graph: bool = False,
        restore_properties: bool = True,
        synapse_reference_tables: Mapping[str, str | Sequence[str]] | None = None,
        reference_tables: ReferenceTables | None = None,
        skeleton_version: int | None = None,
        transform: TransformName | None = None,
        output: Output = "meshwork",
        generate: bool = True,
        deadline: float = 600.0,
        fallback: Literal["compute"] | None = None,
        errors: Literal["raise", "collect"] = "collect",
        batch_size: int = 50,
        progress: bool = True,
    ) -> SkeletonBatches:
        """Return many neurons, a batch at a time, so that they need not all be in memory.

        A neuron is built when it is returned. With the second one of a batch, the next batch is prefetched in the
        background, so that the services respond while you work with the neurons.

        Parameters
        ----------
        root_ids : int or sequence of int
            Duplicates are read once.
        synapses, restore_graph, restore_properties, synapse_reference_tables, reference_tables, skeleton_version
            As for `get_skeleton`.
        transform, output
            As for `get_skeleton`.
        generate : bool
            Request skeletons that the service has not made yet, and wait for them; without it they are failures.
        deadline : float
            Seconds to wait for those of one batch, 0 or more; what is not made by then is a failure. The service goes
            on making it, so that it can be fetched later.
        fallback : {"compute"}, optional
            As for `get_skeleton`; also of what was not made in time.
        errors : {"raise", "collect"}
            Raise the first failure, or continue and collect failures in ``.failures``.
        batch_size : int
            Neurons in one batch; at most 500. The responses of at most two batches are in memory.
        progress : bool
            Show a progress bar.

        Returns
        -------
        SkeletonBatches
            Iterates over ``(root_id, neuron)`` in the order given; ``.failures`` is a dict root -> error that fills as
            the iteration proceeds; ``.to_dict()`` reads all, and ``.to_navis()`` all of ``output="navis"`` into a
            ``navis.NeuronList``. No request is sent before the first step.

        Raises
        ------
        ValueError
            As for `get_skeleton`, or if the batch size is below 1 or the deadline below 0.

        Examples
        --------
        >>> for root, neuron in client.get_skeletons(root_ids, progress=False):
        ...     print(neuron.skeleton.path_length() > 0)
        True
        True
        True
        """
        as_choice(errors, "errors", ("raise", "collect"))
        as_choice(transform, "transform", ("rigid", "streamline", None))
        as_choice(output, "output", ("meshwork", "cell", "navis", "dict", "swc"))
        as_choice(fallback, "fallback", ("compute", None))
        size = as_id(batch_size, "batch_size")
        if size < 1:
            raise ValueError(f"batch_size must be at least 1, not {size}")
        plain = output in {"dict", "swc"}  # which carry neither synapses nor properties
        references = _references(synapse_reference_tables, reference_tables)
        if any(references.values()) and (plain or not synapses):
            raise ValueError(
                "synapse_reference_tables add columns to synapses, and none are returned: pass synapses=True and "
                "output='meshwork', 'cell' or 'navis'"
            )
        # what is missing raises before any request is sent: a capability, an extra, the transform
        require = self._session.spec.require_capability
        if fallback is None:
            require("skeletons", feature="skeletons", instead=_COMPUTE)
        if synapses and not plain:
            require("versions", feature="the synapses of a skeleton", instead="pass synapses=False")
        if restore_properties and not plain and output != "navis":
            instead = "pass restore_properties=False"
            require("l2cache", feature="the properties of a skeleton", instead=instead)
        if output == "cell":
            from cortexclient.services.skeletons.build import require_ossify

            require_ossify()
        if output == "navis":
            require_navis()
        loader = SkeletonLoader(
            self._session,
            version=self._version(skeleton_version),
            synapses=synapses,
            restore_graph=restore_graph,
            restore_properties=restore_properties,
            references=references,
            transform=transform,
            output=output,
            generate=generate,
            deadline=_seconds(deadline),
            compute=fallback is not None,
            progress=progress,
            space=None if transform is None else self._in_space(),
        )
        return SkeletonBatches(
            list(dict.fromkeys(as_ids(root_ids, "root_ids").tolist())),
            loader.load,
            min(size, 500),
            collect=errors == "collect",
            progress=progress,
            workers=self._session.max_workers,
        )

    def save_swc(
        self, neuron: Any, path: PathLike, *, transform: TransformName | None = None, unit: Unit | None = None
    ) -> None:
        """Save a neuron's skeleton as an SWC file in um.

        Parameters
        ----------
        neuron : int, Meshwork, ossify Cell, TreeNeuron, mapping or str
            A root id, whose skeleton is fetched; or any output of `get_skeleton`, as it is: masked or not, of one
            vertex or several pieces. A skeleton of another origin may be given, too.
        path : str or pathlib.Path
            File to write. It is replaced when everything is written.
        transform : {"rigid", "streamline"}, optional
            For a root id: move the skeleton into cortical space.
        unit : {"nm", "um"}, optional
            Unit of a skeleton that does not know its own. Default: nm.

        Raises
        ------
        ValueError
            If a transform is given for a neuron that was fetched already, or a unit for one that knows its own.

        Examples
        --------
        >>> client.save_swc(root_id, "neuron.swc", transform="rigid")
        """
        as_choice(unit, "unit", ("nm", "um", None))
        if not _is_neuron(neuron):
            text = self.get_skeleton(neuron, transform=transform, output="swc")
            write_text(path, text)
            return
        if transform is not None:
            raise ValueError(
                "transform is for root ids: a neuron is moved when it is fetched, get_skeleton(root_id, transform=...)"
            )
        shape = shape_of(neuron)
        if unit is not None and shape.unit not in {unit, None}:
            raise ValueError(f"this neuron is in {shape.unit}; leave unit= out")
        write_text(path, shape.to_swc(unit))

    def skeletons_exist(
        self,
        root_ids: Ids | None = None,
        skeleton_version: int | Ids | None = None,
        log_warning: bool = True,
        verbose_level: int | None = 0,
        *,
        datastack_name: str | None = None,
    ) -> bool | dict[int, bool]:
        """Return which neurons have a skeleton stored in the service.

        Parameters
        ----------
        root_ids : int or sequence of int
            Roots; any number, looked up in batches.
        skeleton_version : int, optional
            Version of the skeletons. Default: the spec's, or 4. The two arguments may come in either order.
        log_warning, verbose_level
            As in caveclient.
        datastack_name : str, optional
            That of this client; another one is refused.

        Returns
        -------
        bool or dict
            For a single id True or False, else id -> bool for each distinct id.

        Raises
        ------
        ValueError
            If no roots are given, both arguments are roots, or the datastack is another one than this client's.

        Examples
        --------
        >>> client.skeletons_exist(root_ids) == dict.fromkeys(root_ids, True)
        True
        """
        require_own(self._session, datastack_name)
        self._session.spec.require_capability("skeletons", feature="stored skeletons")
        given, roots = skeleton_version, root_ids
        if _are_roots(given):  # the other order
            if _are_roots(roots):
                raise ValueError(
                    "roots are given twice; give them as root_ids=, and a version as skeleton_version="
                )
            given, roots = roots, given
        if roots is None:
            raise ValueError("root_ids is missing; give the roots to look up")
        version = self._version(given)
        one = is_one(roots)
        ids = list(dict.fromkeys(as_ids(roots, "root_ids").tolist()))
        found = stored_skeletons(
            self._session, ids, version, log_warning=log_warning, verbose_level=verbose_level
        )
        return found[ids[0]] if one else found

    def _version(self, given: Any) -> int:
        return as_id(self._session.spec.skeleton_version or 4 if given is None else given, "skeleton_version")

    def _in_space(self) -> Space:
        from cortexclient.services.space import Space

        if self._space is None:
            self._space = Space(self._session)
        return self._space


def _seconds(deadline: Any) -> float:
    if isinstance(deadline, bool) or not isinstance(deadline, Real) or not float(deadline) >= 0:
        raise ValueError(f"deadline must be a number of seconds, 0 or more, not {deadline!r}")
    return float(deadline)


def _are_roots(given: Any) -> bool:
    """Return whether an argument is a root or several, and not a version of skeletons."""
    return given is not None and (not is_one(given) or as_id(given, "root_ids") > _LARGEST_VERSION)


def _references(by_side: Any, tables: Any) -> dict[str, list[str]]:
    """Return the reference tables of each side, given under either of their names; without sides they are for both."""
    if tables is not None and by_side is not None:
        raise ValueError(
            "synapse_reference_tables and reference_tables are one argument; leave out one of them"
        )
    if tables is not None:
        by_side = tables if hasattr(tables, "items") else {"pre": tables, "post": tables}
    if by_side is None:
        return {}
    if not hasattr(by_side, "items") or set(by_side) - {"pre", "post"}:
        found = sorted(map(str, by_side)) if hasattr(by_side, "items") else repr(by_side)
        raise ValueError(
            f"synapse_reference_tables is a dict with the keys 'pre' and 'post' and names of tables, not {found}"
        )
    return {
        side: [names] if isinstance(names, str) else list(names)
        for side, names in by_side.items()
        if names is not None
    }


def _is_neuron(given: Any) -> bool:
    if isinstance(given, str):
        return "\n" in given  # a root id may be a text, too
    return isinstance(given, tuple) or any(hasattr(given, name) for name in ("skeleton", "vertices", "keys"))
