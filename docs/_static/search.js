// What a reader most likely means comes first: guides before the API reference, codes of problems and single datasets.
var Scorer = {
  score: function (result) {
    var page = result[0], score = result[4];
    if (/^(codes|datasets\/|decisions\/)/.test(page)) return score * 0.25;
    if (/^(api\/|spec-reference|conformance|benchmarks|architecture|changelog)/.test(page)) return score * 0.5;
    return score;
  },
  objNameMatch: 11, objPartialMatch: 6, objPrio: { 0: 15, 1: 5, 2: -5 }, objPrioDefault: 0,
  title: 25, partialTitle: 12, term: 5, partialTerm: 2
};
