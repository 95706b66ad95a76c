// The end of the page's one script, bundled with vega-embed: draws each specification of #charts into its figure.
const specs = JSON.parse(document.getElementById("charts").textContent);
// `ast` interprets expressions instead of compiling them, so that the page's policy can forbid eval.
const options = { renderer: "svg", actions: false, ast: true, tooltip: { theme: "scoreonce" } };
for (const [name, spec] of Object.entries(specs)) {
  const figure = document.getElementById(`chart-${name}`);
  vegaEmbed(figure, spec, options).catch((error) => {
    figure.textContent = `This chart could not be drawn: ${error.message}`;
  });
}
