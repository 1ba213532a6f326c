// The samples nearest to an image, and their positions on a globe.
//
// The image is at the front pole. Nearer samples are placed nearer to it, by rank, so that the globe
// is filled evenly. A sample's direction on the globe is its direction from the image, projected to
// the two axes in which the samples differ most.

const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
const plus = (a, b, factor) => a.map((value, i) => value + factor * b[i]);
const unit = (a) => { const size = Math.hypot(...a); return size > 1e-9 ? a.map((v) => v / size) : null; };

// Return the `keep` rows [N, D] nearest to `centre` [D], nearest first: [{ index, distance, way }], where
// `way` leads from the centre to the row.
export function nearest(centre, rows, keep, cosine) {
  const of = (vector) => (cosine && unit(vector)) || vector;
  const here = of(centre);
  return rows
    .map((row, index) => {
      const way = plus(of(row), here, -1);
      return { index, way, distance: Math.hypot(...way) };
    })
    .sort((a, b) => a.distance - b.distance)
    .slice(0, keep);
}

// Place neighbours on the globe: their places [[x, y, z]], and the share of their squared distances in the
// two axes.
export function place(found) {
  const [ways, directions] = acrossAndAxes(found.map(({ way }) => way));
  const places = found.map((_, rank) => {
    const height = 1 - (2 * (rank + 1)) / (found.length + 1);
    const [x, y] = directions.map((axis) => dot(ways[rank], axis));
    const turn = directions.length && (x || y) ? Math.atan2(y || 0, x) : rank * 2.399963;
    const side = Math.sqrt(1 - height * height);
    return [side * Math.cos(turn), side * Math.sin(turn), height];
  });
  const all = found.reduce((sum, { distance }) => sum + distance ** 2, 0);
  const inside = directions.reduce((sum, axis) => sum + ways.reduce((s, w) => s + dot(w, axis) ** 2, 0), 0);
  apart(places);
  return { places, share: all ? inside / all : 0 };
}

// All samples lie on one side of an image that is an outlier, so their common direction is removed
// first. Return the rest, and its two principal axes.
function acrossAndAxes(ways) {
  if (!ways.length) return [ways, []];
  const common = unit(ways.reduce((sum, way) => plus(sum, way, 1)));
  let left = common ? ways.map((way) => plus(way, common, -dot(way, common))) : ways;
  const across = left;
  const axes = [];
  while (axes.length < 2) {
    const axis = principal(left);
    if (!axis) break;
    axes.push(axis);
    left = left.map((way) => plus(way, axis, -dot(way, axis)));
  }
  return [across, axes];
}

// The direction in which rows vary most, by power iteration; null if they do not vary.
function principal(rows) {
  let axis = unit(rows.reduce((best, row) => (Math.hypot(...row) > Math.hypot(...best) ? row : best)));
  for (let i = 0; axis && i < 60; i += 1) {
    axis = unit(rows.reduce((sum, row) => plus(sum, row, dot(row, axis)), axis.map(() => 0)));
  }
  return axis;
}

// Move places apart that would hide each other. The pole, where the image is, does not move.
function apart(places) {
  const least = 0.9 * Math.sqrt((4 * Math.PI) / (places.length + 1));
  const pole = [0, 0, 1];
  for (let round = 0; round < 60; round += 1) {
    for (let i = 0; i < places.length; i += 1) {
      let moved = places[i];
      for (const other of [pole, ...places]) {
        const way = plus(places[i], other, -1);
        const gap = Math.hypot(...way);
        const need = other === pole ? 1.25 * least : least;
        if (gap > 1e-6 && gap < need) moved = plus(moved, way, (0.25 * (need - gap)) / gap);
      }
      places[i] = unit(moved);
    }
  }
}
