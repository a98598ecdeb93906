//go:build separate

package separate

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// golden holds a demonstration against golden vector 1 of the city's economics: Berkeley's figures, wherever its parts run.
func golden(t *testing.T, f figures) {
	t.Helper()
	assert.Equal(t, []int64{15200, 22800, 0}, []int64{f.CapacityMonth, f.CapEpoch, f.CapUnallocated})
	assert.Equal(t, []int64{15, 20696}, []int64{f.Tasks, f.Reserved})
	assert.Equal(t, f.Claims, f.Verifications)
	assert.Equal(t, f.Minted, f.Votes)
	assert.Positive(t, f.Minted)
	require.Len(t, f.Issuers, 5)
	for _, i := range f.Issuers {
		assert.Equal(t, int64(4560), i.Allocation, i.ID)
	}
	assert.Equal(t, map[string]int{
		"AllocationExceeded": 1, "NotAccredited": 1, "EntryNotActive": 1, "SelfVerification": 1, "NotActivated": 1, "SealedTask": 1,
		"AlreadyMinted": 1, "TermsFrozen": 1, "PublicPriceZero": 1, "CodeExpired": 1, "AlreadyRedeemed": 1, "TillLocked": 2,
	}, f.Refused)
}

func TestThreeProcessesOnThreeDatabases(t *testing.T) {
	c := found(t, "--separate")
	require.Len(t, c.ready.Hosts, 1)
	first := c.demo(t, nil)
	golden(t, first)
	c.verify(t)
	assert.Equal(t, first.Checkpoint, c.demo(t, nil).Checkpoint, "a second run changes nothing")
	c.wallsStand(t, "pds", "ledger", "appview")

	c.stop(t)
	for service, pid := range c.processes() {
		assert.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH, "%s has ended", service)
	}
	c.start(t)
	assert.Equal(t, first.Checkpoint, c.demo(t, nil).Checkpoint, "the same city")
	c.stop(t)
}

func TestPartOfTheCityOnASecondPDS(t *testing.T) {
	c := found(t, "--separate", "--second-pds")
	require.Len(t, c.ready.Hosts, 2)
	var away []string
	for _, a := range c.ready.Accounts {
		if a.PDS != "" {
			assert.Equal(t, c.ready.Hosts[1], a.PDS)
			away = append(away, a.ID)
		}
	}
	assert.Equal(t, []string{"SEN", "MAR"}, away, "the last issuer and the last redeemer")
	first := c.demo(t, nil)
	golden(t, first)
	c.verify(t)
	assert.Equal(t, first.Checkpoint, c.demo(t, nil).Checkpoint, "a second run changes nothing")
	c.wallsStand(t, "pds", "pds2", "ledger", "appview")

	// Each process is killed while other people act; they wait for it, and go on.
	second := c.demo(t, func() {
		for _, service := range []string{"ledger", "pds2", "appview", "pds"} {
			before := c.processes()[service]
			require.NoError(t, syscall.Kill(before, syscall.SIGKILL), service)
			require.Eventually(t, func() bool { return c.processes()[service] != before }, 20*time.Second, 50*time.Millisecond, service)
		}
	}, "--seed", "2")
	assert.Greater(t, second.Minted, first.Minted)
	c.verify(t)

	// Children die with their parent, and the next start finds its ports free.
	require.NoError(t, c.dev.Process.Kill())
	require.Error(t, <-c.ended)
	require.Eventually(t, func() bool { return !listens(append(c.ready.Hosts, c.ready.Web)...) }, 10*time.Second, 50*time.Millisecond)
	c.start(t)
	assert.Equal(t, second.Checkpoint, c.demo(t, nil, "--seed", "2").Checkpoint)
	c.stop(t)
}

func TestTwoHostsInOneProcess(t *testing.T) {
	c := found(t, "--second-pds")
	first := c.demo(t, nil)
	golden(t, first)
	c.verify(t)
	c.stop(t)
	c.flags = append(c.flags, "--separate") // the processes may be told apart later
	c.start(t)
	assert.Equal(t, first.Checkpoint, c.demo(t, nil).Checkpoint)
	c.stop(t)
}

// listens tells whether anybody answers at one of these addresses.
func listens(addresses ...string) bool {
	for _, a := range addresses {
		if conn, err := net.Dial("tcp", strings.TrimPrefix(a, "http://")); err == nil {
			_ = conn.Close()
			return true
		}
	}
	return false
}

// wallsStand tries to reach with each service's role what belongs to the others.
func (c *city) wallsStand(t *testing.T, services ...string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(c.dir, "data", "city.json"))
	require.NoError(t, err)
	var state struct {
		Instance string `json:"instance"`
	}
	require.NoError(t, json.Unmarshal(raw, &state))
	as := func(role, database, sql string) error {
		dsn := "host=" + c.socket(t) + " port=5432 user=citysync_" + state.Instance[:8] + "_" + role + " dbname=" + database
		conn, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			return err
		}
		defer conn.Close(t.Context())
		_, err = conn.Exec(t.Context(), sql)
		return err
	}
	for _, service := range services {
		for _, other := range append(slices.Clone(services), "") {
			database := "citysync_" + other
			if other == "" {
				database = "citysync"
			}
			err := as(service, database, `select 1`)
			if other == service {
				assert.NoError(t, err)
				continue
			}
			assert.ErrorContains(t, err, "permission denied for database", "%s enters %s", service, database)
		}
	}
	for _, sql := range []string{
		`update ledger.entry set kind = kind`, `delete from ledger.entry`, `truncate ledger.entry cascade`,
		`update ledger.node set hash = hash`, `delete from ledger.node`, `truncate ledger.node`, `drop table ledger.node`,
	} {
		assert.Error(t, as("ledger", "citysync_ledger", sql), sql)
	}
}
