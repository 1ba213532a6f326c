// Bars with whiskers, as SVG.

function element(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// Draw bars of `values`, with whiskers of `spread` above and below their ends.
export function bars(svg, values, spread, words) {
  const [width, height, margin] = [600, 170, 6];
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const reach = (sign) => values.map((value, i) => value + sign * (spread ? spread[i] : 0));
  const top = Math.max(0, ...reach(1));
  const bottom = Math.min(0, ...reach(-1));
  const scale = (height - 2 * margin) / (top - bottom || 1);
  const y = (value) => margin + (top - value) * scale;
  const step = width / values.length;
  const groups = values.map((value, i) => {
    const group = element("g", {});
    const title = element("title", {});
    title.textContent = words(i);
    const x = i * step + step * 0.15;
    const side = { x, width: step * 0.7, y: Math.min(y(value), y(0)) };
    group.append(title, element("rect", { ...side, height: Math.abs(y(value) - y(0)) }));
    if (spread) {
      const middle = i * step + step / 2;
      const wide = step * 0.2;
      const [high, low] = [y(value + spread[i]), y(value - spread[i])];
      const path = `M${middle} ${high}V${low}M${middle - wide} ${high}h${2 * wide}` +
        `M${middle - wide} ${low}h${2 * wide}`;
      group.append(element("path", { d: path }));
    }
    return group;
  });
  const zero = element("line", { x1: 0, x2: width, y1: y(0), y2: y(0) });
  const ends = [[top, 12], [bottom, height - 3]].map(([value, height]) => {
    const text = element("text", { x: 3, y: height });
    text.textContent = value ? value.toPrecision(2) : "";
    return text;
  });
  svg.replaceChildren(zero, ...groups, ...ends);
}
