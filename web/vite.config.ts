import { defineConfig } from "vite";

// One script and one style sheet, named by their content: the server lets browsers keep them.
export default defineConfig({
  esbuild: { jsx: "automatic", jsxImportSource: "preact", legalComments: "none" },
  build: {
    outDir: "../api/static",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    assetsInlineLimit: 0,
    reportCompressedSize: false,
  },
  server: {
    // `npm run dev` beside a running `tandem serve`.
    proxy: Object.fromEntries(
      ["/v1", "/cluster", "/requests", "/history", "/models", "/health"].map((path) => [
        path,
        { target: "http://127.0.0.1:8642", headers: { origin: "http://127.0.0.1:8642" } },
      ]),
    ),
  },
});
