package ledger

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
)

func (c *founded) erase(r *actor) answer {
	c.t.Helper()
	word := c.call(r, "eraseAccount", "", map[string]any{})
	require.Equal(c.t, "confirm", word.str("status"), "%v", word.Body)
	return c.call(r, "eraseAccount", "", map[string]any{"confirm": word.str("confirm")})
}

// dump is everything in the ledger's schema, as bytes that can be looked through.
func (c *founded) dump() map[string][]byte {
	c.t.Helper()
	rows, err := c.world.pool.Query(c.ctx, `select table_name from information_schema.tables where table_schema = current_schema() and table_type = 'BASE TABLE'`)
	require.NoError(c.t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(c.t, err)
	require.Greater(c.t, len(tables), 20)
	out := map[string][]byte{}
	for _, table := range tables {
		rows, err := c.world.pool.Query(c.ctx, `select * from `+pgx.Identifier{table}.Sanitize())
		require.NoError(c.t, err)
		var b bytes.Buffer
		for rows.Next() {
			values, err := rows.Values()
			require.NoError(c.t, err)
			for _, v := range values {
				if raw, ok := v.([]byte); ok {
					b.Write(raw)
				} else {
					fmt.Fprint(&b, v)
				}
				b.WriteByte('\n')
			}
		}
		require.NoError(c.t, rows.Err())
		out[table] = b.Bytes()
	}
	return out
}

// traces are the forms in which a person could still stand somewhere: DID, account, salts.
func (c *founded) traces(r *actor) map[string][]byte {
	c.t.Helper()
	var account []byte
	require.NoError(c.t, c.world.pool.QueryRow(c.ctx, `select account from account_link where did = $1`, r.did.String()).Scan(&account))
	out := map[string][]byte{
		"DID": []byte(r.did.String()), "DID's own part": []byte(strings.TrimPrefix(r.did.String(), "did:plc:")), "account": account,
		"account in hex": []byte(hex.EncodeToString(account)), "account in base64": []byte(base64.RawStdEncoding.EncodeToString(account)),
	}
	rows, err := c.world.pool.Query(c.ctx, `select o.sealed from opening o join account_entry a using (seq) where a.account = $1`, account)
	require.NoError(c.t, err)
	sealed, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	require.NoError(c.t, err)
	require.NotEmpty(c.t, sealed)
	for i, raw := range sealed {
		o, err := entry.DecodeOpening(raw)
		require.NoError(c.t, err)
		for _, f := range o.Fields {
			out[fmt.Sprintf("salt of %s %d", f.Name, i)] = f.Salt
		}
	}
	return out
}

func TestErasedPersonIsNowhereInTheLedger(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	entries := c.catalog(c.library, entryOptions{})
	ben := c.resident("ben")
	c.earn(ben, entries)
	// Everything that a person can leave: a burn, a proved claim, a held one, a refused one, an objection that is held, a staff's binding.
	require.Equal(t, "redeemed", c.scan(c.till, c.code(ana, 1, "k", nil).str("code"), "confirm", 0).str("status"))
	require.Equal(t, 200, c.code(ana, 1, "open", nil).Status)
	task := c.task(c.library, entries, 4)
	claim := ana.claim(task)
	ana.proof(task, claim)
	c.verify(c.library, task, c.claimToken(c.library, ben.claim(task))) // enters both
	held := c.task(c.parks, c.catalog(c.parks, entryOptions{}), 2)
	ana.proof(held, ana.claim(held))
	c.status(ana.claim(c.task(c.library, entries, 1)), "claimed")
	c.refused(ana.claim(c.task(c.library, entries, 1)), "ClaimLimit")
	dispute := c.object(ana, task)
	c.say(dispute, "admitted")
	require.Equal(t, "bound", c.call(c.parks, "bindStaff", "", map[string]any{"resident": ana.did, "idempotencyKey": "s"}).str("status"))
	traces := c.traces(ana)
	for what, raw := range traces {
		found := false
		for _, content := range c.dump() {
			found = found || bytes.Contains(content, raw)
		}
		require.Equal(t, !strings.HasPrefix(what, "account in"), found, "%s stands somewhere before, or the test sees nothing", what)
	}
	opening := c.call(ben, "getOpening", "", nil)
	inclusion := c.call(nil, "getInclusionProof", "?seq=20", nil)
	before, size, burned := c.capacity(), c.l.seq.log.size(), c.capacity().num("burned")
	mine := c.balance(ana)

	c.unchanged(func() {
		require.Equal(t, "NotConfirmed", c.call(ana, "eraseAccount", "", map[string]any{"confirm": "yes"}).name())
		require.Equal(t, "NotAResident", c.call(c.library, "eraseAccount", "", map[string]any{"confirm": "yes"}).name())
	})
	require.Equal(t, "erased", c.erase(ana).str("status"))
	require.Equal(t, []string{"unclaim", "expire"}, c.kinds(size))
	again := c.call(ana, "eraseAccount", "", map[string]any{"confirm": "once more"})
	require.Equal(t, "erased", again.str("status"))

	for table, content := range c.dump() {
		for what, raw := range traces {
			if table == "fact" && what != "account" { // the city's own words about the objection cite it
				continue
			}
			assert.False(t, bytes.Contains(content, raw), "%s stands in %s", what, table)
		}
	}
	after := c.capacity()
	for _, name := range []string{"minted", "votes", "reserved", "capEpoch", "tasks"} {
		assert.Equal(t, before.num(name), after.num(name), name)
	}
	assert.Equal(t, burned, after.num("burned"))
	assert.Equal(t, mine, after.num("expired"))
	assert.Equal(t, before.num("supply")-mine, after.num("supply"))
	assert.Equal(t, opening.Body, c.call(ben, "getOpening", "", nil).Body)
	assert.Equal(t, inclusion.Body["leafHash"], c.call(nil, "getInclusionProof", "?seq=20", nil).Body["leafHash"])
	require.Equal(t, "NotActivated", c.call(ana, "getBalance", "", nil).name())

	c.say(dispute, "dismissed") // what she objected to is let go as any other
	require.Contains(t, c.kinds(size), "resume")
	live := c.l.seq.state.Digest()
	c.restart()
	require.Equal(t, live, c.l.seq.state.Digest(), "a replay without the openings comes to the same")
	c.earn(ben, entries)

	// Her records are not taken again, until she is activated anew.
	ana.claim(c.task(c.library, entries, 1))
	var n int
	require.NoError(t, c.world.pool.QueryRow(c.ctx, `select count(*) from fact where did = $1`, ana.did.String()).Scan(&n))
	require.Zero(t, n)
	require.Equal(t, "activated", c.activateAs(ana, "back").str("status"))
	require.Zero(t, c.balance(ana))
	c.status(ana.claim(c.task(c.library, entries, 1)), "claimed")
	c.restart()
}

func (c *founded) activateAs(r *actor, key string) answer {
	return c.call(c.library, "activate", "", map[string]any{"resident": r.did, "residentToken": r.token("activate"), "idempotencyKey": key})
}

// One field can be shown without the others, and verifies against the leaf.
func TestResidentOpensOwnEntriesFieldByField(t *testing.T) {
	t.Parallel()
	c, ana := rich(t)
	res := c.call(ana, "getOpening", "?limit=2", nil)
	require.Equal(t, 200, res.Status, "%v", res.Body)
	require.NotEmpty(t, res.str("cursor"))
	rest := c.call(ana, "getOpening", "?cursor="+res.str("cursor"), nil)
	raw, err := json.Marshal(append(res.Body["openings"].([]any), rest.Body["openings"].([]any)...)) //nolint:forcetypeassert // of our own answer
	require.NoError(t, err)
	type b struct {
		Bytes string `json:"$bytes"`
	}
	var list []struct {
		Seq    int64
		Kind   string
		Fields []struct {
			Name  string
			Text  string
			Bytes *b
			Salt  b
			Index int64
			Path  []b
		}
	}
	require.NoError(t, json.Unmarshal(raw, &list))
	require.Len(t, list, 3, "activate, claim, mint")
	decode := func(v b) []byte {
		raw, err := base64.RawStdEncoding.DecodeString(v.Bytes)
		require.NoError(t, err)
		return raw
	}
	names := map[string]bool{}
	for _, o := range list {
		e := c.entry(o.Seq)
		for _, f := range o.Fields {
			names[f.Name] = true
			open := entry.FieldOpening{Field: entry.Field{Name: f.Name, Value: f.Text, Salt: decode(f.Salt)}, Index: f.Index}
			if f.Bytes != nil {
				open.Field.Value = decode(*f.Bytes)
			}
			for _, p := range f.Path {
				open.Path = append(open.Path, decode(p))
			}
			require.NoError(t, open.Verify(*e.Commitment))
			open.Field.Name += "x"
			require.Error(t, open.Verify(*e.Commitment))
		}
	}
	require.Equal(t, map[string]bool{"account": true, "at": true, "resident": true}, names)
	other := c.resident("ben")
	mine := c.call(other, "getOpening", "?seq="+fmt.Sprint(list[2].Seq), nil)
	require.Empty(t, mine.Body["openings"], "nobody gets another's")
}
