// The arithmetic of the page "Try it": the library's formulas once more, on small dense matrices (lists of rows).
// tests/docs/test_try.py runs this file and compares every number with polyrank's own aggregation.
const PolyRank = (() => {
  const zeros = (rows, columns) => Array.from({ length: rows }, () => new Array(columns).fill(0));
  const product = (x, y) => x.map(row => y[0].map((_, j) => row.reduce((sum, v, i) => sum + v * y[i][j], 0)));
  const transposed = x => x[0].map((_, j) => x.map(row => row[j]));
  const scaled = (x, factor) => x.map(row => row.map(v => factor * v));
  const minus = (x, y) => x.map((row, i) => row.map((v, j) => v - y[i][j]));
  const norm = x => Math.sqrt(x.flat().reduce((sum, v) => sum + v * v, 0));

  // Eigenvalues and eigenvectors (columns) of a symmetric matrix by Jacobi's rotations, the largest first.
  function eigen(symmetric) {
    const n = symmetric.length, m = symmetric.map(row => [...row]);
    const vectors = m.map((_, i) => m.map((_, j) => Number(i === j)));
    for (let sweep = 0; sweep < 60; sweep++) {
      let off = 0;
      for (let p = 0; p < n; p++) for (let q = p + 1; q < n; q++) off += m[p][q] ** 2;
      if (off < 1e-26 * (1e-300 + norm(m) ** 2)) break;
      for (let p = 0; p < n; p++) for (let q = p + 1; q < n; q++) {
        if (m[p][q] === 0) continue;
        const tau = (m[q][q] - m[p][p]) / (2 * m[p][q]);
        const t = (tau < 0 ? -1 : 1) / (Math.abs(tau) + Math.hypot(1, tau));
        const c = 1 / Math.hypot(1, t), s = t * c;
        for (let k = 0; k < n; k++) [m[k][p], m[k][q]] = [c * m[k][p] - s * m[k][q], s * m[k][p] + c * m[k][q]];
        for (let k = 0; k < n; k++) [m[p][k], m[q][k]] = [c * m[p][k] - s * m[q][k], s * m[p][k] + c * m[q][k]];
        for (const v of vectors) [v[p], v[q]] = [c * v[p] - s * v[q], s * v[p] + c * v[q]];
      }
    }
    const order = m.map((_, i) => i).sort((i, j) => m[j][j] - m[i][i]);
    return { values: order.map(i => m[i][i]), vectors: vectors.map(row => order.map(i => row[i])) };
  }

  const total = clients => clients.reduce((sum, client) => sum + client.weight, 0);
  const delta = f => scaled(product(f.b, f.a), f.scale);

  // The weighted mean of the clients' products, which an exact method gives.
  function target(round) {
    const weight = total(round.clients);
    const parts = round.clients.map(client => scaled(delta(client), client.weight / weight));
    return parts.reduce((sum, part) => sum.map((row, i) => row.map((v, j) => v + part[i][j])));
  }

  const mean = (clients, row, j) => {
    const weight = total(clients);
    return row(clients[0], j).map((_, i) => clients.reduce((sum, c) => sum + c.weight * row(c, j)[i], 0) / weight);
  };

  // What becomes of one row, of its previous value, the owners' mean and the donors' mean; `q` is the owners' share.
  const ROWS = {
    fedavg: (previous, owners) => owners,
    zero_padding: (previous, owners, q) => owners.map(v => q * v),
    zero_padding_delta: (previous, owners, q) => owners.map((v, i) => q * v + (1 - q) * previous[i]),
    replication: (previous, owners, q, donors) => owners.map((v, i) => q * v + (1 - q) * donors[i]),
    owner_mean: (previous, owners) => owners,
    tempered: (previous, owners, q, donors, options) => {
      const theta = q ** options.gamma;
      return owners.map((v, i) => (1 - theta) * previous[i] + theta * v);
    },
  };

  function byRows(method, round, options) {
    const { previous, clients } = round, weight = total(clients);
    const ranks = clients.map(client => client.a.length), highest = Math.max(...ranks);
    if (method === "fedavg" && ranks.some(rank => rank !== highest)) throw new Error("fedavg needs equal ranks");
    const columns = f => transposed(f.b).map(row => row.map(v => v * f.scale / previous.scale));
    const kinds = [f => f.a, columns].map(rows => {
      const held = new Map(clients.map(client => [client, rows(client)])), before = rows(previous);
      return before.map((row, j) => {
        const owners = clients.filter(client => client.a.length > j && client.weight > 0);
        if (owners.length === 0) return method === "zero_padding" ? row.map(() => 0) : row;
        const of = (client, at) => held.get(client)[at];
        const donors = owners.filter(client => client.a.length === highest);
        const donated = mean(donors.length ? donors : owners, of, j);
        return ROWS[method](row, mean(owners, of, j), total(owners) / weight, donated, options);
      });
    });
    return { a: kinds[0], b: transposed(kinds[1]), scale: previous.scale };
  }

  // The mean of the products, cut to the global rank: A = V^T, B = U S / s.
  function flexlora(round) {
    const wanted = target(round), { previous } = round;
    const { vectors } = eigen(product(transposed(wanted), wanted));
    const rank = previous.a.length, rows = transposed(vectors).slice(0, rank);
    const a = rows.concat(zeros(Math.max(0, rank - rows.length), previous.a[0].length));
    return { a, b: scaled(product(wanted, transposed(a)), 1 / previous.scale), scale: previous.scale };
  }

  const aggregate = (method, round, options = { gamma: 0.5 }) =>
    method === "flexlora" ? flexlora(round) : byRows(method, round, options);

  // |s B A - delta*|_F / |delta*|_F
  const error = (round, found) => norm(minus(delta(found), target(round))) / norm(target(round));

  // (s |b_j| |a_j|)^2 of every rank index: what it alone contributes.
  const energy = f => f.a.map((row, j) =>
    f.scale ** 2 * row.reduce((sum, v) => sum + v * v, 0) * f.b.reduce((sum, line) => sum + line[j] ** 2, 0));

  // Numbers between 0 and 1 that a seed decides (mulberry32), and normal ones by Box and Muller.
  function generator(seed) {
    let state = seed >>> 0;
    const uniform = () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let t = Math.imul(state ^ (state >>> 15), 1 | state);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
    return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  }

  const OUT = 20, IN = 24, TOP = 20;

  // Clients that were sent one adapter and trained it: each goes a common way and one of its own. The global rank is the
  // highest of theirs.
  function example(ranks, weights, seed) {
    const normal = generator(seed);
    const drawn = (rows, columns, size) => zeros(rows, columns).map(row => row.map(() => size * normal()));
    const top = Math.max(...ranks), a = drawn(TOP, IN, IN ** -0.5), b = drawn(OUT, TOP, 0.05);
    const previous = { a: a.slice(0, top), b: b.map(row => row.slice(0, top)), scale: 2 };
    const common = drawn(OUT, TOP, 0.1);
    const clients = ranks.map((rank, k) => {
      const own = generator(1000 * seed + k), turn = () => own();
      return {
        weight: weights[k],
        scale: previous.scale,
        a: previous.a.slice(0, rank).map(row => row.map(v => v + 0.02 * turn())),
        b: previous.b.map((row, i) => row.slice(0, rank).map((v, j) => v + common[i][j] + 0.05 * turn())),
      };
    });
    return { previous, clients };
  }

  return { METHODS: [...Object.keys(ROWS), "flexlora"], aggregate, delta, energy, error, example, target, TOP };
})();
if (typeof module !== "undefined") module.exports = PolyRank;
