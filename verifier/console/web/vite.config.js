import { defineConfig } from 'vite'

// The output must be the same bytes on every machine: it is committed and
// compared. Nothing is inlined, so that the policy needs no exception.
export default defineConfig({
  esbuild: { jsx: 'automatic', jsxImportSource: 'preact' },
  build: {
    outDir: '../dist', emptyOutDir: true, target: 'es2022', assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: { input: ['index.html', 'closed.html'] },
  },
})
