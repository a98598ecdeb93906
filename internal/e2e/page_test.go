//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestPageTotalsEqualLedgerOnANarrowPhoneWithoutScript reads the city's page in both languages, 320 CSS pixels wide, with scripts off.
func TestPageTotalsEqualLedgerOnANarrowPhoneWithoutScript(t *testing.T) {
	city := startCity(t)
	want := capacity(t, city.Ledger)
	require.Positive(t, want["minted"])
	require.Positive(t, want["burned"])

	browser := newBrowser(t)
	for _, lang := range []struct{ tag, tasks string }{{"en", "Tasks"}, {"es", "Tareas"}} {
		require.NoError(t, chromedp.Do(browser, chromedp.Navigate(city.Web+"/?lang="+lang.tag)))
		html := see(t, browser, chromedp.AttributeValue(chromedp.CSS("html"), "lang"))
		assert.Equal(t, lang.tag, html.Value)
		assert.Equal(t, lang.tasks, see(t, browser, chromedp.Text(chromedp.CSS("#tasks"))))
		for id, n := range want {
			shown := see(t, browser, chromedp.Text(chromedp.CSS("#"+id)))
			got, err := strconv.ParseInt(strings.ReplaceAll(shown, "\u202f", ""), 10, 64)
			require.NoError(t, err, "%s shows %q", id, shown)
			assert.Equal(t, n, got, "%s in %s", id, lang.tag)
		}
		fits(t, browser, "city-"+lang.tag)
		require.NoError(t, chromedp.Do(browser, chromedp.Click(chromedp.CSS("#minted a")), chromedp.WaitVisible(chromedp.CSS("tbody a"))))
		fits(t, browser, "log-"+lang.tag)
		require.NoError(t, chromedp.Do(browser, chromedp.Navigate(city.Web+"/?lang="+lang.tag)))
		require.NoError(t, chromedp.Do(browser, chromedp.Click(chromedp.CSS(".cards h3 a")), chromedp.WaitVisible(chromedp.CSS(".chain"))))
		steps := see(t, browser, chromedp.Text(chromedp.CSS(".chain")))
		assert.Contains(t, steps, "org.city-sync.work.task", "the chain shows the task")
		assert.Contains(t, steps, "org.city-sync.catalog.entry", "the chain shows the catalog entry")
		fits(t, browser, "task-"+lang.tag)
		reads(t, browser, "task-"+lang.tag)
		for _, p := range []struct{ name, path, click, then string }{
			{"city-epoch-", "/epochs", ".cards h2 a", "#indicators"}, {"city-disputes-", "/disputes", "", "h1"}, {"city-receipt-", "/log/mint", "tbody a", "#final"},
		} {
			require.NoError(t, chromedp.Do(browser, chromedp.Navigate(city.Web+p.path+"?lang="+lang.tag)))
			if p.click != "" {
				require.NoError(t, chromedp.Do(browser, chromedp.Click(chromedp.CSS(p.click)), chromedp.WaitVisible(chromedp.CSS(p.then))), p.name)
			}
			if p.name == "city-receipt-" {
				require.NoError(t, chromedp.Do(browser, chromedp.Click(chromedp.CSS(`a[href^="/receipts/"]`)), chromedp.WaitVisible(chromedp.CSS(".receipt .qr"))))
			}
			fits(t, browser, p.name+lang.tag)
			reads(t, browser, p.name+lang.tag)
		}
	}
	offline(t, city, see(t, browser, chromedp.AttributeValue(chromedp.CSS(`a[href$="/proof"]`), "href")).Value)
}

// offline checks the proof file of a receipt with the built program, which gets the log's key and no address.
func offline(t *testing.T, city ready, path string) {
	t.Helper()
	var known struct {
		Log struct {
			VKey string `json:"vkey"`
		} `json:"log"`
	}
	require.NoError(t, json.Unmarshal(fetch(t, city.Web+"/.well-known/citysync.json"), &known))
	file := filepath.Join(t.TempDir(), "receipt.tlog-proof")
	require.NoError(t, os.WriteFile(file, fetch(t, city.Web+path), 0o600))
	run(t, t.TempDir(), city.program, "verify", "--vkey", known.Log.VKey, file)
}

// asked has the browser show pages as another medium, or in another scheme of colors.
func asked(t *testing.T, ctx context.Context, media, scheme string) {
	t.Helper()
	require.NoError(t, chromedp.Do(ctx, chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Media: media, Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		return err
	})))
}

// newBrowser is headless Chromium with scripts off, in a window as wide as the smallest phone.
func newBrowser(t *testing.T) context.Context {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.DisableGPU, chromedp.Flag("disable-quic", true))
	alloc, stop := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	require.NoError(t, chromedp.Do(ctx, chromedp.EmulateViewport(320, 640, chromedp.EmulateMobile), chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
		return err
	})))
	ctx, expire := context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(expire)
	return ctx
}

func see[T any](t *testing.T, ctx context.Context, a chromedp.Action[T]) T {
	t.Helper()
	v, err := chromedp.Run(ctx, a)
	require.NoError(t, err)
	return v
}

// fits checks that nothing makes the page scroll sideways. A screenshot is kept where E2E_SCREENSHOTS names a folder.
func fits(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	width := see(t, ctx, chromedp.EvaluateAsDevTools[int]("document.documentElement.scrollWidth"))
	assert.LessOrEqual(t, width, 320, "%s is wider than the phone", name)
	if dir := os.Getenv("E2E_SCREENSHOTS"); dir != "" {
		png := see(t, ctx, chromedp.FullScreenshot(100))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644))
	}
}
