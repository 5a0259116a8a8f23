// Package browser has the tests of the pages in a headless Chromium, against a whole
// `writ dev`. What the pages show is saved as pictures in $WRIT_SCREENSHOTS, or where
// `go test -artifacts` puts such things.
package browser
