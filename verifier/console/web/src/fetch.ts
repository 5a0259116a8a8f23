import { useEffect, useReducer, useState } from 'preact/hooks'

/** Throws an error whose message is for the reader: what the verifier said, or that it does not answer. */
export async function load<T>(url: string): Promise<T> {
  let r: Response
  try { r = await fetch(url, { headers: { Accept: 'application/json' } }) } catch { throw new Error('The verifier does not answer. It may be stopped, or the network between may be down.') }
  const body = await r.json().catch(() => undefined) as T & { title?: string; detail?: string } | undefined
  if (!r.ok) throw new Error(body?.title ? `${body.title}${body.detail ? `: ${body.detail}` : ''}.` : `The verifier answered ${r.status} without saying why.`)
  if (body === undefined) throw new Error('The verifier’s answer cannot be read. Something between may have changed it.')
  return body
}

/** What url answered last, and why it does not now. every: milliseconds until it is asked again; 0: never. Without a url nothing is asked. */
export function useLoaded<T>(url: string, every = 0): { value?: T; trouble?: string; again: () => void } {
  const [got, set] = useState<{ url: string; value?: T; trouble?: string }>({ url })
  const [turn, again] = useReducer((n: number, _: void) => n + 1, 0)
  useEffect(() => {
    if (!url) return
    let gone = false, timer = 0
    const ask = async () => {
      try {
        const value = await load<T>(url)
        if (!gone) set({ url, value })
      } catch (e) {
        if (!gone) set(old => ({ url, value: old.url === url ? old.value : undefined, trouble: (e as Error).message }))
      }
      if (!gone && every) timer = window.setTimeout(ask, every)
    }
    void ask()
    return () => { gone = true; clearTimeout(timer) }
  }, [url, every, turn])
  return got.url === url ? { ...got, again: () => again() } : { again: () => again() }
}
