package ledger

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An alert as alerts.yml writes it: one line a field.
type alert struct{ name, expr, summary, runbook string }

func alerts(t *testing.T) []alert {
	t.Helper()
	raw, err := os.ReadFile("alerts.yml")
	require.NoError(t, err)
	var all []alert
	for line := range strings.Lines(string(raw)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch key {
		case "- alert":
			all = append(all, alert{name: value})
		case "expr":
			all[len(all)-1].expr = value
		case "summary":
			all[len(all)-1].summary = value
		case "runbook":
			all[len(all)-1].runbook = value
		}
	}
	return all
}

var (
	metricName = regexp.MustCompile(`\bcitysync_(ledger|follow)_[a-z_]+`)
	headingRE  = regexp.MustCompile(`(?m)^## (.+)$`)
	ofSeries   = regexp.MustCompile(`_(bucket|sum|count)$`)
	link       = regexp.MustCompile(`\]\(#([a-z-]+)\)`)
)

// anchors are the headings of the runbook as a page links to them.
func anchors(runbook string) []string {
	var out []string
	for _, m := range headingRE.FindAllStringSubmatch(runbook, -1) {
		out = append(out, strings.ReplaceAll(strings.ToLower(m[1]), " ", "-"))
	}
	return out
}

// known are the metrics that a running ledger shows or would show.
func known(t *testing.T, reg *prometheus.Registry) []string {
	t.Helper()
	ch := make(chan *prometheus.Desc)
	go func() { reg.Describe(ch); close(ch) }()
	var out []string
	for d := range ch {
		name, _, _ := strings.Cut(strings.TrimPrefix(d.String(), `Desc{fqName: "`), `"`)
		out = append(out, name)
	}
	return out
}

func TestEveryAlertReadsMetricsThatExistAndNamesAPageOfTheRunbook(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	have := known(t, c.reg)
	raw, err := os.ReadFile("RUNBOOK.md")
	require.NoError(t, err)
	runbook := string(raw)
	pages := anchors(runbook)
	all := alerts(t)
	require.Greater(t, len(all), 10)
	for _, a := range all {
		assert.NotEmpty(t, a.summary, a.name)
		page, ok := strings.CutPrefix(a.runbook, "ledger/RUNBOOK.md#")
		assert.True(t, ok && slices.Contains(pages, page), "%s names %s, the runbook has %v", a.name, a.runbook, pages)
		for _, name := range metricName.FindAllString(a.expr, -1) {
			assert.Contains(t, have, ofSeries.ReplaceAllString(name, ""), "%s reads it", a.name)
		}
		assert.Equal(t, strings.Count(a.expr, "("), strings.Count(a.expr, ")"), a.name)
	}
	for _, m := range link.FindAllStringSubmatch(runbook, -1) {
		assert.Contains(t, pages, m[1], "a link within the runbook")
	}
	// Names in the runbook too; `_x` stands for the ones that differ in their end.
	for _, name := range metricName.FindAllString(runbook, -1) {
		if !strings.HasSuffix(name, "_") {
			assert.Contains(t, have, name, "the runbook names it")
		}
	}
}
