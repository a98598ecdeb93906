package obs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/obs"
)

func TestLoggerWritesForMachinesOrPeople(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	log := obs.Logger(&buf, true, slog.LevelInfo)
	log.Debug("hidden")
	log.Info("minted", "amount", 12)
	var line map[string]any
	require.NoError(t, json.Unmarshal(buf.Bytes(), &line))
	assert.Equal(t, "minted", line["msg"])
	assert.EqualValues(t, 12, line["amount"])

	buf.Reset()
	obs.Logger(&buf, false, slog.LevelWarn).Warn("late", "part", "web")
	assert.Contains(t, buf.String(), "msg=late part=web")
}

func TestPrivateListener(t *testing.T) {
	t.Parallel()
	reg := obs.Registry()
	minted := prometheus.NewCounter(prometheus.CounterOpts{Name: "citysync_minted_total", Help: "Credits minted."})
	reg.MustRegister(minted)
	minted.Add(3)
	var state error
	h := obs.Handler(reg, func(context.Context) error { return state })
	get := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w
	}
	assert.Contains(t, get("/metrics").Body.String(), "citysync_minted_total 3")
	assert.Contains(t, get("/metrics").Body.String(), "go_goroutines")
	assert.Equal(t, http.StatusOK, get("/readyz").Code)
	assert.Equal(t, http.StatusOK, get("/debug/pprof/").Code)

	state = errors.New("pds: no database")
	w := get("/readyz")
	assert.Equal(t, http.StatusServiceUnavailable, w.Code)
	assert.Contains(t, w.Body.String(), "pds: no database")
}
