/** What the pages draw with, in a chunk of its own that is loaded when something is drawn. */
export { areaY, axisX, axisY, barX, barY, gridY, lineY, plot, ruleX, ruleY, text } from '@observablehq/plot'
