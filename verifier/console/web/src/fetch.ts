import { useEffect, useReducer, useState } from 'preact/hooks'

const patience = 10_000 // ms: a verifier that takes longer is as good as away

/** Throws an error whose message is for the reader: what the verifier said, or that it does not answer. */
export async function load<T>(url: string): Promise<T> {
  let r: Response
  try { r = await fetch(url, { headers: { Accept: 'application/json' }, signal: AbortSignal.timeout(patience) }) } catch { throw new Error('The verifier does not answer. It may be stopped, or the network between may be down.') }
  const body = await r.json().catch(() => undefined) as T & { title?: string; detail?: string } | undefined
  if (!r.ok) throw new Error(body?.title ? `${body.title}${body.detail ? `: ${body.detail}` : ''}.` : `The verifier answered ${r.status} without saying why.`)
  if (body === undefined) throw new Error('The verifier’s answer cannot be read. Something between may have changed it.')
  return body
}

/** What url answered last and when (ms), and why it does not now. every: milliseconds until it is asked again; 0: never. Without a url nothing is asked. */
export function useLoaded<T>(url: string, every = 0): { value?: T; at: number; trouble?: string; again: () => void } {
  const [got, set] = useState<{ url: string; value?: T; at: number; trouble?: string }>({ url, at: 0 })
  const [turn, again] = useReducer((n: number, _: void) => n + 1, 0)
  useEffect(() => {
    if (!url) return
    let gone = false, timer = 0
    const ask = async () => {
      try {
        const value = await load<T>(url)
        if (!gone) set({ url, value, at: Date.now() })
      } catch (e) {
        if (!gone) set(old => ({ url, ...old.url === url ? { value: old.value, at: old.at } : { at: 0 }, trouble: (e as Error).message }))
      }
      if (!gone && every) timer = window.setTimeout(ask, every)
    }
    void ask()
    return () => { gone = true; clearTimeout(timer) }
  }, [url, every, turn])
  return got.url === url ? { ...got, again: () => again() } : { at: 0, again: () => again() }
}
