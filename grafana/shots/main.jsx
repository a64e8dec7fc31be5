// Draws one dashboard of window.SHOT, as questions.py wrote it down, with Grafana's own components: what a panel plugin does
// around them is here, as little of it as our kinds of panel need.
import '@fontsource/inter/400.css';
import '@fontsource/inter/500.css';
import 'uplot/dist/uPlot.min.css';
import './page.css';
import { createRoot } from 'react-dom/client';
import { lastValueFrom } from 'rxjs';
import {
  FieldType, ThemeContext, createTheme, dateTime, getDisplayProcessor, getDisplayValueAlignmentFactors,
  getFieldDisplayName, getFieldDisplayValues, standardTransformers, standardTransformersRegistry, toDataFrame,
  transformDataFrame,
} from '@grafana/data';
import {
  BarGauge, BigValue, BigValueTextMode, GlobalStyles, PanelChrome, TimeSeries, VizRepeater,
} from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';

const WIDTH = 1600, MARGIN = 16, GAP = 8, CELL = 30, COLUMNS = 24;
const { dashboard, answers, start, end } = window.SHOT;
const theme = createTheme({ colors: { mode: 'dark' } });
const timeRange = { from: dateTime(start * 1000), to: dateTime(end * 1000), raw: { from: 'now-4m', to: 'now' } };

standardTransformersRegistry.setInit(() =>
  [standardTransformers.mergeTransformer, standardTransformers.organizeFieldsTransformer].map((one) => ({
    id: one.id, name: one.name, transformation: () => Promise.resolve(one), editor: () => null,
  }))
);

// ---- from Prometheus' answers to data frames -------------------------------------------------------------------------

const spoken = (legend, labels) =>
  legend ? legend.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, name) => labels[name] ?? '') : undefined;

/** A frame for each series, as the Prometheus data source makes them. */
function seriesOf(target, result) {
  return result.map(({ metric, values, value }) => {
    const samples = (values ?? [value]).map(([at, text]) => [at * 1000, parseFloat(text)]);
    const holes = values ? filled(samples) : samples;
    const name = spoken(target.legendFormat, metric);
    return toDataFrame({
      refId: target.refId,
      fields: [
        { name: 'Time', type: FieldType.time, values: holes.map(([at]) => at) },
        { name: 'Value', type: FieldType.number, labels: metric, values: holes.map(([, one]) => one),
          config: { displayNameFromDS: name } },
      ],
    });
  });
}

/** With nothing where a step has no sample, so that no line is drawn over a gap. */
function filled(samples) {
  const step = 5000, known = new Map(samples);
  const [first, last] = [start * 1000, end * 1000];
  return Array.from({ length: Math.round((last - first) / step) + 1 }, (_, at) => first + at * step).map((at) => [
    at, known.has(at) ? known.get(at) : null,
  ]);
}

/** One frame with a column for each label: what the data source makes of `format: table`. */
function rowsOf(target, result, isOnly) {
  const labels = [...new Set(result.flatMap(({ metric }) => Object.keys(metric)))].sort();
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: result.map(({ value }) => value[0] * 1000) },
      ...labels.map((label) => ({ name: label, type: FieldType.string, values: result.map(({ metric }) => metric[label]) })),
      { name: isOnly ? 'Value' : `Value #${target.refId}`, type: FieldType.number,
        values: result.map(({ value }) => parseFloat(value[1])) },
    ],
  });
}

/** Defaults and overrides of a panel on each field, then what shows its values. */
function dressed(panel, frames, colour) {
  let place = 0;
  for (const frame of frames) {
    for (const field of frame.fields) {
      if (field.type === FieldType.time) {
        continue;
      }
      const { defaults, overrides } = panel.fieldConfig;
      field.config = { color: { mode: colour }, ...structuredClone(defaults), ...field.config };
      const name = getFieldDisplayName(field, frame, frames);
      for (const { matcher, properties } of overrides ?? []) {
        if (matcher.options === name) {
          properties.forEach(({ id, value }) => set(field.config, id, value));
        }
      }
      const known = field.values.filter((value) => Number.isFinite(value));
      const range = { min: Math.min(...known), max: Math.max(...known) };
      field.state = { ...field.state, displayName: name, seriesIndex: place++, range: { ...range, delta: range.max - range.min } };
      field.display = getDisplayProcessor({ field, theme });
    }
  }
  return frames;
}

function set(config, id, value) {
  const [first, ...rest] = id.split('.');
  rest.length ? set((config[first] ??= {}), rest.join('.'), value) : (config[first] = value);
}

// ---- panels ----------------------------------------------------------------------------------------------------------

const framesOf = (panel) => panel.targets.flatMap((target, at) => seriesOf(target, answers[panel.id][at]));

function values(panel, sparkline) {
  const { fieldConfig, options: { reduceOptions } } = panel;
  const data = dressed(panel, framesOf(panel), 'thresholds');
  return getFieldDisplayValues({ fieldConfig, reduceOptions, data, theme, sparkline, replaceVariables: (text) => text });
}

function Stat({ panel, width, height }) {
  const { colorMode, graphMode, textMode, justifyMode, text } = panel.options;
  const shown = values(panel, graphMode === 'area');
  return (
    <VizRepeater width={width} height={height} source={answers} renderCounter={0} getValues={() => shown} orientation="auto"
      autoGrid
      renderValue={({ value: { display, sparkline }, width, height, count }) => (
        <BigValue value={display} sparkline={sparkline} width={width} height={height} theme={theme} count={count}
          colorMode={colorMode} graphMode={graphMode} justifyMode={justifyMode ?? 'auto'} text={text}
          textMode={textMode ?? BigValueTextMode.Auto} />
      )} />
  );
}

function Bars({ panel, width, height }) {
  const shown = values(panel, false);
  const { defaults } = panel.fieldConfig;
  // As the plugin does it: all bars on one scale.
  const most = defaults.max ?? Math.max(...shown.map(({ display }) => display.numeric));
  return (
    <VizRepeater width={width} height={height} source={answers} renderCounter={0} getValues={() => shown} minVizHeight={panel.options.minVizHeight}
      maxVizHeight={panel.options.maxVizHeight} orientation={panel.options.orientation} itemSpacing={10}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      renderValue={({ value: { field, display, view, colIndex }, width, height, orientation, alignmentFactors }) => (
        <BarGauge value={display} field={{ ...field, min: defaults.min ?? 0, max: most || 1 }} width={width} height={height}
          orientation={orientation} theme={theme} displayMode={panel.options.displayMode} alignmentFactors={alignmentFactors}
          display={view?.getFieldDisplayProcessor(colIndex)} valueDisplayMode={panel.options.valueMode ?? 'color'}
          namePlacement={panel.options.namePlacement ?? 'auto'} showUnfilled={panel.options.showUnfilled ?? true}
          itemSpacing={10} />
      )} />
  );
}

const CUSTOM = {
  drawStyle: 'line', axisPlacement: 'auto', axisBorderShow: false, axisColorMode: 'text', scaleDistribution: { type: 'linear' },
  spanNulls: false, pointSize: 5, gradientMode: 'none', barAlignment: 0, hideFrom: { viz: false, legend: false, tooltip: false },
  thresholdsStyle: { mode: 'off' },
};

function Chart({ panel, width, height }) {
  const frames = dressed(panel, framesOf(panel), 'palette-classic');
  for (const field of frames.flatMap((frame) => frame.fields.slice(1))) {
    field.config.custom = { ...CUSTOM, ...field.config.custom };
  }
  return (
    <TimeSeries frames={frames} width={width} height={height} timeRange={timeRange} timeZone="browser"
      legend={panel.options.legend} structureRev={1} />
  );
}

function Rows({ panel, width, height, frame }) {
  return (
    <TableNG data={frame} width={width} height={height} sortBy={panel.options.sortBy} cellHeight="sm"
      structureRev={1} showTypeIcons={false} />
  );
}

const KINDS = { stat: Stat, bargauge: Bars, timeseries: Chart, table: Rows };

function Panel({ panel, frame }) {
  const { x, y, w, h } = panel.gridPos;
  const column = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) / COLUMNS;
  const place = { left: MARGIN + x * (column + GAP), top: y * (CELL + GAP), width: w * column + (w - 1) * GAP };
  if (panel.type === 'row') {
    return <div className="row" style={place}><i />{panel.title}</div>;
  }
  const height = h * CELL + (h - 1) * GAP;
  const Kind = KINDS[panel.type];
  const isEmpty = answers[panel.id].every((result) => result.length === 0);
  return (
    <div className="panel" style={{ ...place, height }}>
      <PanelChrome title={panel.title} width={place.width} height={height}
        padding={panel.type === 'table' || panel.type === 'stat' ? 'none' : 'md'}>
        {(width, height) =>
          isEmpty
            ? <div className="quiet" style={{ width, height }}>{panel.fieldConfig.defaults.noValue}</div>
            : <Kind panel={panel} width={width} height={height} frame={frame} />}
      </PanelChrome>
    </div>
  );
}

async function tableOf(panel) {
  const found = panel.targets.map((target, at) => rowsOf(target, answers[panel.id][at], panel.targets.length === 1));
  const [frame] = await lastValueFrom(transformDataFrame(panel.transformations ?? [], found));
  return dressed(panel, [frame], 'thresholds')[0];
}

function Page({ frames }) {
  const clock = (at) => new Date(at * 1000).toTimeString().slice(0, 8);
  const bottom = Math.max(...dashboard.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
  const choices = dashboard.templating.list.filter(({ type }) => type === 'query');
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <header>
        <b>{dashboard.title}</b>
        {choices.map(({ name }) => <span key={name}><em>{name}</em><u>All</u></span>)}
        <span className="time"><u>{clock(start)} to {clock(end)}</u></span>
      </header>
      <main style={{ height: bottom * (CELL + GAP) }}>
        {dashboard.panels.map((panel) => <Panel key={panel.id} panel={panel} frame={frames[panel.id]} />)}
      </main>
      <footer>Drawn by Grafana's own components (@grafana/ui) from a live Prometheus; there was no Grafana server.
        The traffic is scripted, the images are the sandbox's.</footer>
    </ThemeContext.Provider>
  );
}

const failed = (error) => (document.body.textContent = error.stack); // a page from a file gets no word of it otherwise
const tables = dashboard.panels.filter((panel) => panel.type === 'table' && answers[panel.id].some((one) => one.length));
Promise.all(tables.map(async (panel) => [panel.id, await tableOf(panel)]))
  .then((frames) => createRoot(document.getElementById('page'), { onUncaughtError: failed }).render(
    <Page frames={Object.fromEntries(frames)} />
  ))
  .catch(failed);
