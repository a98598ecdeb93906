package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/clock"
)

// verify runs a verification of the city, or of one record in it, without long waits.
func (c *smallCity) verify(target string) (verifyResult, error) {
	c.t.Helper()
	cfg := verifyConfig{Target: c.log.URL}
	if target != "" {
		cfg = verifyConfig{Target: target, PLCURL: c.plc.URL}
	}
	return c.verifyWith(cfg)
}

// verifyWith does it at the time of the last entry.
func (c *smallCity) verifyWith(cfg verifyConfig) (verifyResult, error) {
	c.t.Helper()
	v := &verifier{report: newVerifyReport(), patience: 1, web: newWeb(true), clock: clock.New(c.world.Now)}
	v.web.wait = time.Millisecond
	err := v.run(c.t.Context(), cfg)
	return v.report.result(), err
}

func lines(r verifyResult) string {
	var b strings.Builder
	for _, w := range r.Wrong {
		b.WriteString(w.check + ": " + w.String() + "\n")
	}
	return b.String()
}

func TestVerifyFindsARightCityRight(t *testing.T) {
	t.Parallel()
	c := newSmallCity(t)
	c.publish()
	r, err := c.verify("")
	require.NoError(t, err)
	require.Empty(t, lines(r))
	require.True(t, r.OK)
	var names []string
	counts := map[string]int64{}
	for _, check := range r.Checks {
		names = append(names, check.Name)
		counts[check.Name] = check.Count
		assert.True(t, check.OK, check.Name)
		if !slices.Contains([]string{checkMonths, checkRedeemed, checkStops, checkDigests, checkCosigned}, check.Name) {
			assert.Positive(t, check.Count, check.Name)
		}
	}
	assert.Equal(t, verifyChecks, names)
	assert.Equal(t, c.size(), counts[checkLeaves])
	assert.EqualValues(t, 2, counts[checkReceipts])
	assert.EqualValues(t, 2, counts[checkCheckpoints])
}

func TestVerifyPrintsOneObjectAndNothingElse(t *testing.T) {
	t.Parallel()
	c := newSmallCity(t)
	c.publish()
	var out, messages bytes.Buffer
	code := run(t.Context(), []string{"citysync", "verify", c.log.URL, "--json"}, nil, streams{&out, &messages})
	require.Equal(t, 0, code, messages.String())
	var got struct {
		OK     bool
		Level  string
		Checks []anyMap
		Wrong  []anyMap
	}
	dec := json.NewDecoder(&out)
	dec.DisallowUnknownFields()
	require.NoError(t, dec.Decode(&got))
	require.False(t, dec.More())
	assert.True(t, got.OK)
	assert.Equal(t, "anyone", got.Level)
	assert.NotNil(t, got.Wrong, "an empty list, not null")
	assert.Empty(t, messages.String())
}
