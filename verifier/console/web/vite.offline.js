import { defineConfig } from 'vite'

// What the saved copy of /proof is made of: one script, one style.
export default defineConfig({
  esbuild: { jsx: 'automatic', jsxImportSource: 'preact' },
  build: {
    outDir: '../dist/offline', emptyOutDir: true, target: 'es2022', assetsInlineLimit: 0, modulePreload: false, cssCodeSplit: false,
    rollupOptions: { input: 'src/offline.tsx', output: { format: 'iife', inlineDynamicImports: true, entryFileNames: 'proof.js', assetFileNames: 'proof[extname]' } },
  },
})
