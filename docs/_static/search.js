// What a reader most likely means comes first: the page that is about the words, then guides, then the reference, then
// codes of problems, single datasets and decisions.
const ABOUT = {
  "quickstart": "install installation start begin first steps extras demo getting started requirements python",
  "add-a-dataset": "add new dataset yaml own lab spec write validate check extends",
  "assistants": "mcp assistant llm ai chat model context protocol",
  "bulk": "bulk many neurons dask slurm cluster executor resume batch job 100,000 parallel",
  "caching": "cache caching offline network snapshot forget reproducible",
  "cells": "cell ids root ids nucleus nuclei lookup convert stale",
  "errors": "error errors exception exceptions raise retry",
  "exports": "export exports static bucket dump csv delta gcs s3",
  "figures": "figure figures plot plots plotting color colors matplotlib paper draw layers",
  "from-caveclient": "caveclient cave client migrate moving coming",
  "from-cortical-tools": "cortical-tools cortical tools migrate coming",
  "gallery": "gallery pictures examples of figures",
  "glossary": "glossary root supervoxel supervoxels level-2 level 2 l2 words meaning what is materialization materialize voxel",
  "history": "history edit edits merge split proofreader operation operations diff compare versions changes changelog of a root",
  "links": "neuroglancer link links url viewer spelunker state share color colors segment properties annotations layer",
  "moments": "moment version versions timestamp live expired version expiry pin pinned floating materialization latest",
  "morphology": "skeleton skeletons swc mesh meshes soma radius compartment compartments axon dendrite navis meshwork ossify vertex cable",
  "neighbours": "navis neuprint flywire fafbseg natverse which tool ecosystem publications cite citation alternatives comparison",
  "places": "place places point points position supervoxel at anchor soma location root_at",
  "recipes": "recipe recipes how to types strongest cell type cell types proofread proofreading proofread neurons",
  "notebooks/population-matrix": "connectivity matrix heatmap population adjacency",
  "sandbox-services": "sandbox server local test fake",
  "space": "depth cortical space pia layer layers streamline transform um micrometre micron coordinates orientation",
  "spec-reference": "spec reference field fields key keys yaml schema",
  "store": "store disk parquet local pull duckdb polars tables download whole",
  "synapses": "synapse synapses partners partner connectivity inputs outputs pre post score size threshold",
  "tables": "table tables row limit rows truncated complete query filter filters view views units nm voxels resolution join reference columns count bounding box bbox",
  "testing": "test tests testing pytest fixture fixtures ci fault faults",
  "tokens": "token tokens login log in password authentication authorization 401 403 terms of service tos account proxy proxies certificate certificates ssl environment variable variables folder folders config server secret",
  "troubleshooting": "problem problems wrong fails slow hangs timeout timeouts missing rows empty 500 504 stale trouble help memory",
};
const words = (text) => text.toLowerCase().match(/[\w.,-]+/g) || [];
// share of the words of the query that a page says it is about; beginnings of words count, too
const fit = (page) => {
  const about = words(ABOUT[page] || ""), query = words(new URLSearchParams(window.location.search).get("q") || "");
  const known = query.filter((word) => about.some((one) => one === word || (word.length > 2 && one.startsWith(word)) || (one.length > 3 && word.startsWith(one))));
  return query.length ? known.length / query.length : 0;
};
var Scorer = {
  score: ([page, , anchor, description, score]) => {
    const whole = !anchor && description === null ? 60 * fit(page) ** 2 : 0;
    if (/^(codes|datasets\/|decisions\/|changelog|contributing)/.test(page)) return score * 0.25;
    if (/^(api\/|spec-reference|conformance|benchmarks|architecture|genindex)/.test(page)) return score * 0.5 + whole;
    return score + whole;
  },
  objNameMatch: 11, objPartialMatch: 6, objPrio: { 0: 15, 1: 5, 2: -5 }, objPrioDefault: 0,
  title: 25, partialTitle: 12, term: 5, partialTerm: 2,
};
// "colour" finds "color": the index holds the one spelling (docs/conf.py), so queries use it, too
if (/colour/i.test(window.location.search)) {
  window.history.replaceState(null, "", window.location.search.replace(/colour/gi, "color"));
}
