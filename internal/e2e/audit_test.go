//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/appview/index"
	"city-sync.org/citysync/appview/logtest"
	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/appview/web"
	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/pg/pgtest"
)

// TestAuditPagesReadOnANarrowPhoneWithoutScript shows a town's log with an entry of every kind: each page in both languages fits, has its
// headings in order and enough contrast on light and dark screens.
func TestAuditPagesReadOnANarrowPhoneWithoutScript(t *testing.T) {
	pool := pgtest.Schema(t, index.Migrations())
	told := logtest.Tell(logtest.New(t))
	told.Hold()
	told.BindWitnesses(1, logtest.Library, logtest.Museum)
	told.Cosign(1)
	told.Close()
	told.Follow(t, pool)
	logtest.Publish(t, pool)
	logtest.Object(t, pool)
	logtest.Report(t, pool)
	pages, err := web.New(web.Config{Demonstration: true, Clock: clock.New(logtest.At), Log: slog.New(slog.DiscardHandler)}, query.New(pool, logtest.City))
	require.NoError(t, err)
	srv := httptest.NewServer(pages)
	t.Cleanup(srv.Close)

	at := func(name string) string { return fmt.Sprintf("/entry/%d", told.Seq[name]) }
	browser := newBrowser(t)
	for _, p := range []struct{ name, path string }{
		{"town", "/"}, {"epochs", "/epochs"}, {"epoch", "/epoch/std/e2027-01"}, {"disputes", "/disputes"},
		{"dispute", "/dispute/did:plc:ewvi7nxzyoun6zhxrhs64oiz/3mcx5l2w5ss2d"}, {"held-task", "/task/did:plc:aaaaaaaaaaaaaaaaaaaaaaaa/3mcx5l2w5ss2t"},
		{"paused-offering", "/offering/did:plc:mmmmmmmmmmmmmmmmmmmmmmmm/3mcx5l2w5ss2o"}, {"entry-hold", at("hold")}, {"entry-reversed", at("corrected")},
		{"entry-digest", at("stateDigest")}, {"entry-close", at("epochClose")}, {"receipt", fmt.Sprintf("/receipts/%d", told.Seq["mint"])},
	} {
		for _, lang := range []string{"en", "es"} {
			name := p.name + "-" + lang
			require.NoError(t, chromedp.Do(browser, chromedp.Navigate(srv.URL+p.path+"?lang="+lang)), name)
			assert.Equal(t, lang, see(t, browser, chromedp.AttributeValue(chromedp.CSS("html"), "lang")).Value)
			fits(t, browser, name)
			reads(t, browser, name)
		}
	}
	asked(t, browser, "", "dark")
	for _, path := range []string{"/epoch/std/e2027-01", fmt.Sprintf("/receipts/%d", told.Seq["mint"]), "/dispute/did:plc:ewvi7nxzyoun6zhxrhs64oiz/3mcx5l2w5ss2d"} {
		require.NoError(t, chromedp.Do(browser, chromedp.Navigate(srv.URL+path)))
		reads(t, browser, "dark "+path)
	}
	fits(t, browser, "dispute-dark")
	asked(t, browser, "print", "light") // as wide as a receipt printer's paper
	require.NoError(t, chromedp.Do(browser, chromedp.Navigate(srv.URL+fmt.Sprintf("/receipts/%d?lang=es", told.Seq["mint"]))))
	fits(t, browser, "receipt-print")
}

// reads checks what a reader with little sight needs: headings in order, words for pictures, and contrast of 4.5 for all text.
func reads(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	assert.Empty(t, see(t, ctx, chromedp.EvaluateAsDevTools[string](headings)), "headings of %s", name)
	assert.Empty(t, see(t, ctx, chromedp.EvaluateAsDevTools[string](unnamed)), "pictures and tables of %s", name)
	assert.Empty(t, see(t, ctx, chromedp.EvaluateAsDevTools[string](faint)), "contrast on %s", name)
}

// headings names a level that is skipped or a second h1.
const headings = `(() => {
	let last = 0, bad = [];
	for (const h of document.querySelectorAll("h1,h2,h3,h4")) {
		const n = +h.tagName[1];
		if (n > last + 1 || (n === 1 && last > 0)) bad.push(h.tagName + " " + h.textContent);
		last = n;
	}
	return bad.join("; ");
})()`

// unnamed names drawings without words, and regions that scroll and cannot be reached by keyboard.
const unnamed = `(() => {
	let bad = [];
	for (const s of document.querySelectorAll("svg"))
		if (s.getAttribute("role") !== "img" || !(s.getAttribute("aria-label") || s.getAttribute("aria-labelledby"))) bad.push("svg");
	for (const s of document.querySelectorAll(".scroll"))
		if (s.tabIndex < 0 || !s.getAttribute("aria-label")) bad.push("scroll");
	for (const th of document.querySelectorAll("th"))
		if (!th.getAttribute("scope")) bad.push("th " + th.textContent);
	return bad.join("; ");
})()`

// faint names text whose contrast with what is behind it is under 4.5.
const faint = `(() => {
	const parse = c => { const m = c.match(/[\d.]+/g).map(Number); return m.length > 3 && m[3] === 0 ? null : m; };
	const lum = c => { const f = c.slice(0, 3).map(v => { v /= 255; return v <= .03928 ? v / 12.92 : Math.pow((v + .055) / 1.055, 2.4); }); return .2126*f[0] + .7152*f[1] + .0722*f[2]; };
	const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c) return c; }
		return matchMedia("(prefers-color-scheme: dark)").matches ? [20, 24, 28] : [255, 255, 255]; };
	let bad = [];
	const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	for (let n; n = walk.nextNode();) {
		if (!n.textContent.trim()) continue;
		const e = n.parentElement, s = getComputedStyle(e);
		if (e.closest("title,desc") || !e.getClientRects().length) continue;
		const ink = parse(e.namespaceURI.endsWith("svg") ? s.fill : s.color);
		const a = lum(ink), b = lum(behind(e));
		const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
		if (ratio < 4.5) bad.push(n.textContent.trim().slice(0, 40) + " " + ratio.toFixed(2));
	}
	return bad.join("; ");
})()`
