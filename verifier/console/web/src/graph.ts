import { Graph, layout } from '@dagrejs/dagre'

/** A box of a graph and its place; x and y are its middle. */
export interface Box { id: string; title: string; sub: string; tone: string; href: string; x?: number; y?: number }
export type Arrow = [from: string, to: string, kind: 'chain' | 'rests' | 'starts']
export interface Placed { width: number; height: number; boxes: Required<Box>[]; arrows: { kind: string; points: { x: number; y: number }[] }[] }

export const boxWidth = 148, boxHeight = 46

/** Where boxes and arrows go: from left to right, or from top to bottom where there is no width. */
export function place(boxes: Box[], arrows: Arrow[], down: boolean): Placed {
  const g = new Graph()
  g.setGraph({ rankdir: down ? 'TB' : 'LR', nodesep: 18, ranksep: 24, marginx: 4, marginy: 4 })
  g.setDefaultEdgeLabel(() => ({}))
  for (const b of boxes) g.setNode(b.id, { width: boxWidth, height: boxHeight })
  const known = new Set(boxes.map(b => b.id))
  const drawn = arrows.filter(([a, b]) => known.has(a) && known.has(b))
  for (const [a, b, kind] of drawn) g.setEdge(a, b, { weight: kind === 'chain' ? 4 : 1 })
  layout(g)
  const { width = 0, height = 0 } = g.graph() as { width?: number; height?: number }
  return {
    width, height,
    boxes: boxes.map(b => { const n = g.node(b.id) as { x: number; y: number }; return { ...b, x: n.x, y: n.y } }),
    arrows: drawn.map(([a, b, kind]) => ({ kind, points: (g.edge(a, b) as { points: { x: number; y: number }[] }).points })),
  }
}
