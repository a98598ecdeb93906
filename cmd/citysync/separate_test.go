package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/identity"
	"city-sync.org/citysync/lexicons"
)

var startedLine = regexp.MustCompile(`msg="service started" service=(\w+) pid=(\d+)`)

// processes are the newest process of each service, as the city's log names it.
func (c *runningTown) processes() map[string]int {
	newest := map[string]int{}
	for _, line := range c.logs.all() {
		if m := startedLine.FindStringSubmatch(line); m != nil {
			newest[m[1]], _ = strconv.Atoi(m[2]) // digits
		}
	}
	return newest
}

func TestCityInProcessesOfTheirOwnOnTwoHosts(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("citysync") // this test binary under the program's name
	require.NoError(t, err)
	base := reachable(t)
	cfg := devConfig{
		Data: filepath.Join(base, "data"), City: writeTown(t), CitySet: true, Calendar: calendarNow,
		ReadyFile: filepath.Join(base, "ready.json"), Separate: true, SecondPDS: true, Program: program,
	}
	town := startTown(t, cfg)
	require.Len(t, town.ready.Hosts, 2)
	elsewhere := map[string]string{}
	for _, a := range town.ready.Accounts {
		elsewhere[a.ID] = a.PDS
	}
	second := town.ready.Hosts[1]
	assert.Equal(t, map[string]string{"LIB": "", "PRK": second, "BUS": second, "CITY": "", "LEDGER": ""}, elsewhere)

	first := town.demo(t)
	assert.Equal(t, []int64{2000, 3000, 0}, []int64{first.CapacityMonth, first.CapEpoch, first.CapUnallocated})
	assert.Equal(t, int64(50*8+4*30+45*16+20*15), first.Reserved)
	assert.Equal(t, int64(minResidents*3+4+3), first.Claims)
	assert.Equal(t, first.Claims, first.Verifications)
	assert.Equal(t, int64(minResidents*4+3*4), first.Burned, "one unit each, and by hold, voucher and card")
	assert.Len(t, first.Refused, 12)
	assert.Len(t, reposAt(t, second), 4, "an issuer, a redeemer and two of eight residents")
	verified(t, town.ready.Web)
	registersOnce(t, town)
	approvesFromAway(t, town)

	// Each service dies in turn and comes back; what was done stays done.
	for _, service := range []string{schemaLedger, schemaPDS2, schemaPDS, schemaAppView} {
		before := town.processes()[service]
		require.NotZero(t, before, service)
		require.NoError(t, syscall.Kill(before, syscall.SIGKILL))
		require.Eventually(t, func() bool { return town.processes()[service] != before }, 20*time.Second, 20*time.Millisecond, service)
	}
	assert.Equal(t, first.Checkpoint, town.demo(t).Checkpoint, "a second run waits for what is away and changes nothing")

	// The same city runs in one process, on the same databases.
	require.NoError(t, town.stop())
	for service, pid := range town.processes() {
		assert.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH, "%s has ended", service)
	}
	cfg.Separate, cfg.SecondPDS = false, false
	whole := startTown(t, cfg)
	assert.Equal(t, town.ready, whole.ready)
	again := whole.demo(t) // its log may have one digest more, of what was done after the demonstration
	assert.Equal(t, []int64{first.Reserved, first.Claims, first.Verifications, first.Burned},
		[]int64{again.Reserved, again.Claims, again.Verifications, again.Burned})
}

func verified(t *testing.T, web string) {
	t.Helper()
	var out bytes.Buffer
	code := run(t.Context(), []string{"citysync", "verify", web}, nil, streams{&out, io.Discard})
	require.Equal(t, 0, code, out.String())
}

// registersOnce gives another ledger an account in a running town, as its operator does.
func registersOnce(t *testing.T, c *runningTown) {
	t.Helper()
	secrets := t.TempDir()
	for _, name := range []string{fileRecovery, fileLogSeed, fileLedgerAccount} {
		require.NoError(t, os.WriteFile(filepath.Join(secrets, name), []byte(randomHex(32)+"\n"), 0o600))
	}
	register := func(more ...string) (string, int) {
		var out bytes.Buffer
		args := append([]string{
			"citysync", "ledger", "register", "--allow-loopback", "--plc-url", c.ready.PLC, "--pds-url", c.ready.PDS,
			"--handle", "other-ledger.test", "--public-url", "http://localhost:1", "--secrets", secrets,
		}, more...)
		code := run(t.Context(), args, nil, streams{&out, io.Discard})
		return out.String(), code
	}
	_, code := register()
	require.Equal(t, 1, code, "an account needs an invite")
	pds := newPDSClient(endpoint{base: c.ready.PDS, http: httpClient()})
	var invite struct {
		Code string `json:"code"`
	}
	admin := func(context.Context, string) (string, error) {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte("admin:"+c.ready.AdminPassword)), nil
	}
	require.NoError(t, pds.procedure(t.Context(), admin, "com.atproto.server.createInviteCode", map[string]any{"useCount": 1}, &invite))
	first, code := register("--invite", invite.Code)
	require.Equal(t, 0, code)
	again, code := register()
	require.Equal(t, 0, code)
	assert.Equal(t, first, again)
	did, err := pds.resolve(t.Context(), "other-ledger.test")
	require.NoError(t, err)
	assert.Contains(t, first, "ledger-did "+did.String()+"\nlog-vkey   "+did.String()+"+")
	last, err := identity.NewPLC(c.ready.PLC, httpClient()).Last(t.Context(), did)
	require.NoError(t, err)
	assert.Equal(t, identity.Service{Type: typeLedger, Endpoint: "http://localhost:1"}, last.Services[fragmentLedger])
}

// approvesFromAway lets the city approve a draft that stands on the other PDS.
func approvesFromAway(t *testing.T, c *runningTown) {
	t.Helper()
	parks, ok := c.ready.account("PRK")
	require.True(t, ok)
	pds := newNetworkClient(endpoint{base: c.ready.PDS, http: httpClient()}, c.ready.PLC)
	drafts, err := pds.list(t.Context(), syntax.DID(parks.DID), lexicons.CatalogEntry)
	require.NoError(t, err)
	require.NotEmpty(t, drafts)
	file := filepath.Join(t.TempDir(), "ready.json")
	require.NoError(t, writeReady(file, c.ready))
	var out bytes.Buffer
	code := run(t.Context(), []string{"citysync", "admin", "--ready-file", file, "approve", "--draft", drafts[0].URI.String()}, nil, streams{&out, io.Discard})
	require.Equal(t, 0, code)
	assert.Contains(t, out.String(), "at://"+c.ready.City.DID+"/"+lexicons.CatalogEntry+"/")
}

func reposAt(t *testing.T, host string) []string {
	t.Helper()
	var out struct {
		Repos []struct {
			DID string `json:"did"`
		} `json:"repos"`
	}
	e := endpoint{base: host, http: httpClient()}
	require.NoError(t, e.query(t.Context(), nil, "com.atproto.sync.listRepos", url.Values{"limit": {"1000"}}, &out))
	var dids []string
	for _, r := range out.Repos {
		dids = append(dids, r.DID)
	}
	return dids
}

func TestACityOnOneHostDoesNotMove(t *testing.T) {
	t.Parallel()
	dir := &dataDir{path: t.TempDir()}
	_, err := resume(dir, devConfig{SecondPDS: true}, &cityState{}, nil)
	assert.ErrorContains(t, err, "HostMismatch")
}
