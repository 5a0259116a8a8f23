/** What the pages draw with, in a chunk of its own that is loaded when something is drawn. */
export { areaY, axisX, axisY, barX, barY, dot, gridY, lineY, link, plot, ruleX, ruleY, text, waffleX } from '@observablehq/plot'
