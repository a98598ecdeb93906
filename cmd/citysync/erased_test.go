package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/pg/pgtest"
	"city-sync.org/citysync/ledger/entry"
)

// everything reads all tables of all services.
func everything(t *testing.T, pool *pgxpool.Pool) map[string][]byte {
	t.Helper()
	rows, err := pool.Query(t.Context(), `select table_schema || '.' || table_name from information_schema.tables
		where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema') order by 1`)
	require.NoError(t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Greater(t, len(tables), 60)
	out := map[string][]byte{}
	for _, name := range tables {
		rows, err := pool.Query(t.Context(), `select * from `+pgx.Identifier(strings.Split(name, ".")).Sanitize())
		require.NoError(t, err)
		var b bytes.Buffer
		for rows.Next() {
			values, err := rows.Values()
			require.NoError(t, err)
			for _, v := range values {
				if raw, ok := v.([]byte); ok {
					b.Write(raw)
				} else {
					_, _ = fmt.Fprint(&b, v)
				}
				b.WriteByte('\n')
			}
		}
		require.NoError(t, rows.Err())
		out[name] = b.Bytes()
	}
	return out
}

// tracesOf are the forms in which a person could stand in a store: names, account, salts.
func tracesOf(t *testing.T, pool *pgxpool.Pool, who *session) map[string][]byte {
	t.Helper()
	var account []byte
	require.NoError(t, pool.QueryRow(t.Context(), `select account from ledger.account_link where did = $1`, who.DID.String()).Scan(&account))
	out := map[string][]byte{
		"DID": []byte(who.DID), "DID's own part": []byte(strings.TrimPrefix(who.DID.String(), "did:plc:")), "handle": []byte(who.handle),
		"account": account, "account in hex": []byte(hex.EncodeToString(account)), "account in base64": []byte(base64.RawStdEncoding.EncodeToString(account)),
	}
	rows, err := pool.Query(t.Context(), `select o.sealed from ledger.opening o join ledger.account_entry a using (seq) where a.account = $1`, account)
	require.NoError(t, err)
	sealed, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(sealed), 3)
	for i, raw := range sealed {
		o, err := entry.DecodeOpening(raw)
		require.NoError(t, err)
		for _, f := range o.Fields {
			out[fmt.Sprintf("salt of %s %d", f.Name, i)] = f.Salt
		}
	}
	return out
}

// putEvidence keeps something at the AppView as a resident.
func putEvidence(t *testing.T, d *demo, who *session, task, body string) {
	t.Helper()
	u, err := url.Parse(d.ready.Web)
	require.NoError(t, err)
	audience := syntax.DID("did:web:" + strings.ReplaceAll(u.Host, ":", "%3A"))
	token, err := who.serviceToken(t.Context(), audience, "org.city-sync.work.putEvidence")
	require.NoError(t, err)
	at := d.ready.Web + "/xrpc/org.city-sync.work.putEvidence?task=" + url.QueryEscape(task) + "&claimToken=" +
		base64.RawURLEncoding.EncodeToString(make([]byte, 32))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, at, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "text/plain")
	res, err := httpClient().Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	said, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, 200, res.StatusCode, "%s", said)
}

// A resident is forgotten by the ledger, the PDS and the AppView together. No store holds DID, handle, account, link or salt any more; the
// log, its totals and everybody else's proofs are what they were.
func TestErasedPersonIsNowhere(t *testing.T) {
	t.Parallel()
	base := reachable(t)
	dsn := pgtest.DSN(t)
	town := writeTown(t)
	catalog := filepath.Join(town, "catalog.csv")
	// What an organization says in public of a person's public claim is the organization's; here all work is pseudonymous or sealed.
	require.NoError(t, os.WriteFile(catalog, []byte(strings.ReplaceAll(townFiles["catalog.csv"], ",public,", ",pseudonymous,")), 0o600))
	cfg := devConfig{
		Data: filepath.Join(base, "data"), City: town, CitySet: true, Calendar: calendarNow, ReadyFile: filepath.Join(base, "ready.json"),
		DatabaseURL: dsn,
	}
	c := startTown(t, cfg)
	d := newDemo(c.ready, minResidents, 1, newProgress(io.Discard))
	_, err := d.run(t.Context())
	require.NoError(t, err)
	pool, err := pgxpool.New(t.Context(), dsn)
	require.NoError(t, err)
	defer pool.Close()

	gone, other := d.residents[0], d.residents[1]
	putEvidence(t, d, gone.session, d.rows[0].ref.Uri, "what only the issuer may read")
	traces := tracesOf(t, pool, gone.session)
	all := everything(t, pool)
	for _, table := range []string{"pds.account", "pds.block", "pds.event", "appview.record", "appview.evidence", "ledger.fact", "ledger.account_link", "ledger.opening"} {
		found := false
		for _, raw := range traces {
			found = found || bytes.Contains(all[table], raw)
		}
		require.True(t, found, "%s holds something of a person before, or the test sees nothing", table)
	}
	ask := func(as *session, method string, params url.Values) string {
		t.Helper()
		var out json.RawMessage
		var auth authorize
		if as != nil {
			auth = d.ledger.as(as)
		}
		require.NoError(t, d.ledger.query(t.Context(), auth, "org.city-sync.ledger."+method, params, &out))
		return string(out)
	}
	opening := ask(other.session, "getOpening", nil)
	inclusion := url.Values{"seq": {"10"}, "treeSize": {"20"}}
	proof := ask(nil, "getInclusionProof", inclusion)
	type figures struct{ Minted, Votes, Burned, Supply, Expired, Tasks int64 }
	totals := func() (f figures) {
		require.NoError(t, json.Unmarshal([]byte(ask(nil, "getCapacity", nil)), &f))
		return f
	}
	before := totals()
	has, err := d.balance(t.Context(), gone)
	require.NoError(t, err)

	var marks int // of people whom the demonstration forgot, and whose accounts stand
	require.NoError(t, pool.QueryRow(t.Context(), `select count(*) from ledger.forgotten`).Scan(&marks))
	erase := func(confirm string) (out struct{ Status, Confirm string }) {
		body := map[string]any{}
		if confirm != "" {
			body["confirm"] = confirm
		}
		require.NoError(t, d.ledger.procedure(t.Context(), d.ledger.as(gone.session), "org.city-sync.ledger.eraseAccount", body, &out))
		return out
	}
	require.Equal(t, "erased", erase(erase("").Confirm).Status)
	home, err := d.pds.of(t.Context(), gone.DID)
	require.NoError(t, err)
	require.NoError(t, home.procedure(t.Context(), nil, "com.atproto.server.deleteAccount",
		map[string]any{"did": gone.DID, "password": d.password("0"), "token": ""}, nil))

	// Everybody who follows hears of it.
	require.Eventually(t, func() bool {
		var left int
		const find = `select (select count(*) from appview.repo where did = $1) + (select count(*) from ledger.forgotten)`
		return pool.QueryRow(t.Context(), find, gone.DID.String()).Scan(&left) == nil && left == marks
	}, 30*time.Second, 50*time.Millisecond)

	for table, content := range everything(t, pool) {
		for what, raw := range traces {
			if table == "pds.event" && strings.HasPrefix(what, "DID") {
				continue // the news of the deletion itself, until the firehose's window is over: see below
			}
			assert.False(t, bytes.Contains(content, raw), "%s stands in %s", what, table)
		}
	}
	var news, rest int
	const said = `select count(*) filter (where kind = 'account'), count(*) filter (where kind <> 'account') from pds.event where did = $1`
	require.NoError(t, pool.QueryRow(t.Context(), said, gone.DID.String()).Scan(&news, &rest))
	assert.Equal(t, []int{1, 0}, []int{news, rest})
	require.NoError(t, filepath.WalkDir(cfg.Data, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || strings.Contains(filepath.Base(path), "plc") {
			return err // not a store of the city's: the public directory of the outside world, which forgets no DID. So a first handle is drawn at random
		}
		content, err := os.ReadFile(path)
		for what, raw := range traces {
			assert.False(t, bytes.Contains(content, raw), "%s stands in the file %s", what, path)
		}
		return err
	}))

	after := totals()
	assert.Equal(t, figures{before.Minted, before.Votes, before.Burned, before.Supply - has.Credits, before.Expired + has.Credits, before.Tasks}, after)
	assert.Equal(t, opening, ask(other.session, "getOpening", nil), "another resident's openings")
	assert.Equal(t, proof, ask(nil, "getInclusionProof", inclusion), "another entry's proof")
	rightStill := func() {
		t.Helper()
		report, err := verifyCity(t.Context(), verifyConfig{Target: c.ready.Web})
		require.NoError(t, err)
		assert.Empty(t, report.result().Wrong)
	}
	rightStill()
	require.NoError(t, c.stop())
	c = startTown(t, cfg) // the ledger replays its log without what was destroyed
	assert.Equal(t, after, totals())
	assert.Equal(t, opening, ask(other.session, "getOpening", nil))
	rightStill()
	require.NoError(t, pool.QueryRow(t.Context(), `select count(*) from appview.log_differs`).Scan(&rest))
	assert.Zero(t, rest, "what the ledger published is what its log says")

	// Three days later everybody has heard the news. The PDS lets go of it by itself, and no table is left that holds the DID.
	require.NoError(t, c.stop())
	cfg.clock = ahead{clock.System(), 73 * time.Hour}
	c = startTown(t, cfg)
	require.Eventually(t, func() bool {
		return pool.QueryRow(t.Context(), `select count(*) from pds.event where did = $1`, gone.DID.String()).Scan(&rest) == nil && rest == 0
	}, 30*time.Second, 50*time.Millisecond)
	require.NoError(t, c.stop())
	for table, content := range everything(t, pool) {
		for what, raw := range traces {
			assert.False(t, bytes.Contains(content, raw), "%s stands in %s", what, table)
		}
	}
}

// ahead is a clock that goes before another.
type ahead struct {
	clock.Clock
	by time.Duration
}

func (a ahead) Now() time.Time { return a.Clock.Now().Add(a.by) }
