// Package e2e drives the built program as its users do: the pages in a real browser. Its tests need Chromium and have the build tag e2e, so
// that `make test` does not; `make e2e` runs them.
package e2e
