package ledger

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/lexicons"
)

// trailPeople is k: as many residents do the same in the city of this test, and no join may leave fewer of them.
const trailPeople = 6

// An act is an entry that is somebody's, as the public sees it. Who it was only the test knows.
type act struct {
	person string
	entry  *entry.Entry
	values map[string]string // path in the leaf → value, without what is fresh for each entry
}

// trail is a city in which everybody does the same, and all that is public about it.
type trail struct {
	*founded
	people   []*actor
	records  map[string][]string // person → every value in their public records
	acts     []act
	grown    map[string]int64 // public record of a person → entries that the log grew by when it came
	explains map[string]string
}

// flat gives every value of a JSON document with its path; list positions are left out.
func flat(path string, v any, into map[string]string) {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			flat(path+"."+k, x, into)
		}
	case []any:
		for _, x := range v {
			flat(path+"[]", x, into)
		}
	default:
		into[path] = fmt.Sprint(v)
	}
}

func newTrail(t *testing.T) *trail {
	t.Helper()
	c := &trail{founded: newCity(t), records: map[string][]string{}, grown: map[string]int64{}, explains: map[string]string{}}
	for n := range trailPeople {
		c.people = append(c.people, c.resident(string(rune('a'+n))+"na"))
	}
	note := func(p *actor, ref strong, size int64) {
		c.grown[ref.URI] = c.l.seq.log.size() - size
		said, err := json.Marshal(c.explain(ref).Body)
		require.NoError(t, err)
		c.explains[ref.URI] = string(said)
		c.records[p.did.String()] = append(c.records[p.did.String()], ref.URI, ref.CID, rkeyOf(ref), p.head.Rev, p.head.Commit.String())
	}
	for _, org := range []*actor{c.library, c.parks} {
		task := c.task(org, c.catalog(org, entryOptions{}), trailPeople)
		c.clock.Advance(time.Minute)
		for _, p := range c.people { // in this order, each a minute later
			size := c.l.seq.log.size()
			claim := p.claim(task)
			note(p, claim, size)
			c.records[p.did.String()] = append(c.records[p.did.String()], task.URI, task.CID, "s1")
			size = c.l.seq.log.size()
			note(p, p.proof(task, claim), size)
			c.clock.Advance(time.Minute)
		}
		c.verifyShuffled(org, task)
	}
	sealed := c.task(c.library, c.catalog(c.library, entryOptions{sensitivity: "sealed"}), trailPeople)
	for _, p := range c.people {
		require.Equal(t, 200, p.sealedClaim(sealed, "k").Status)
	}
	c.verifyShuffled(c.library, sealed)
	for _, n := range []int{3, 0, 5, 1, 4, 2} {
		code := c.code(c.people[n], 1, "burn", nil)
		require.Equal(t, "redeemed", c.scan(c.till, code.str("code"), "confirm", n).str("status"), "%v", code.Body)
	}
	for uri, before := range c.explains {
		after, err := json.Marshal(c.call(nil, "explain", "?uri="+uri, nil).Body)
		require.NoError(t, err)
		require.Equal(t, before, string(after), "what the ledger says of %s changes with its mint", uri)
	}
	c.readActs()
	return c
}

// verifyShuffled approves all claims of a task in the order of their tokens, as an issuer that publishes in batches does.
func (c *trail) verifyShuffled(org *actor, task strong) {
	c.t.Helper()
	res := c.call(org, "listClaims", "?task="+task.URI, nil)
	list, _ := res.Body["claims"].([]any)
	require.Len(c.t, list, trailPeople)
	tokens := []string{}
	for _, one := range list {
		v, _ := one.(map[string]any)
		token, _ := v["claimToken"].(map[string]any)
		s, _ := token["$bytes"].(string)
		tokens = append(tokens, s)
	}
	slices.Sort(tokens)
	for _, token := range tokens {
		c.status(c.verify(org, task, token), "minted")
	}
}

// fresh are the parts of a leaf that are new for each entry or count on from the one before: numbers, tokens, commitments, running sums and
// the verification that a mint cites, which was published for this one claim.
var fresh = []string{".seq", ".nullifier", ".commitment.value", ".cap.before", ".burn.unitsBefore", ".causes[].cid", ".causes[].rev", ".causes[].uri"}

func (c *trail) readActs() {
	c.t.Helper()
	rows, err := c.world.pool.Query(c.ctx, `select e.leaf, k.did from entry e join account_entry a using (seq) join account_link k using (account) order by e.seq`)
	require.NoError(c.t, err)
	type row struct {
		Leaf []byte
		DID  string
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	require.NoError(c.t, err)
	for _, r := range list {
		e, err := entry.Decode(r.Leaf)
		require.NoError(c.t, err)
		raw, err := lexicons.CBORToJSON(r.Leaf)
		require.NoError(c.t, err)
		var doc any
		require.NoError(c.t, json.Unmarshal(raw, &doc))
		values := map[string]string{}
		flat("", doc, values)
		for path := range values {
			if slices.ContainsFunc(fresh, func(f string) bool { return strings.HasPrefix(path, f) }) {
				delete(values, path)
			}
		}
		c.acts = append(c.acts, act{person: r.DID, entry: e, values: values})
	}
}

// people that some acts are of.
func persons(acts []act) map[string]bool {
	out := map[string]bool{}
	for _, a := range acts {
		out[a.person] = true
	}
	return out
}

// The attempt: everything public, every join that somebody could try, for the whole trails of six residents who did the same. An equality
// join that leads from one act of a person to another, or from a person's record to an act, must lead to all six alike.
func TestNobodysTrailCanBeJoined(t *testing.T) {
	t.Parallel()
	c := newTrail(t)
	kinds := map[entry.Kind]int{}
	for _, a := range c.acts {
		kinds[a.entry.Kind]++
	}
	require.Equal(t, map[entry.Kind]int{
		entry.KindActivate: trailPeople, entry.KindClaim: 3 * trailPeople, entry.KindMint: 3 * trailPeople, entry.KindBurn: trailPeople,
	}, kinds)

	t.Run("nullifiers and commitments", func(t *testing.T) {
		t.Parallel()
		c.freshOnes(t)
	})
	t.Run("equal values of two acts", func(t *testing.T) {
		t.Parallel()
		c.equalValues(t)
	})
	t.Run("values of a person's records in the log", func(t *testing.T) {
		t.Parallel()
		c.recordsAndLeaves(t)
	})
	t.Run("order and time of claims", func(t *testing.T) {
		t.Parallel()
		c.orderOfClaims(t)
	})
	t.Run("amounts", func(t *testing.T) {
		t.Parallel()
		c.amounts(t)
	})
}

// A nullifier is that of one claim and its mint, and of nothing else; no commitment comes twice, not even for the same values.
func (c *trail) freshOnes(t *testing.T) {
	t.Helper()
	tokens, commitments := map[string][]string{}, map[string]bool{}
	for _, a := range c.acts {
		if len(a.entry.Nullifier) > 0 {
			word := hex.EncodeToString(a.entry.Nullifier)
			tokens[word] = append(tokens[word], string(a.entry.Kind))
		}
		value := string(a.entry.Commitment.Value)
		assert.False(t, commitments[value], "the commitment of entry %d stands elsewhere too", a.entry.Seq)
		commitments[value] = true
		assert.EqualValues(t, 8, a.entry.Commitment.Padded, "the number of fields tells nothing")
	}
	require.Len(t, tokens, 3*trailPeople)
	for word, kinds := range tokens {
		assert.Equal(t, []string{"claim", "mint"}, kinds, "nullifier %s", word)
	}
}

// Whatever two acts of one person have in common, alone or all together, so do acts of all the others.
func (c *trail) equalValues(t *testing.T) {
	t.Helper()
	groups := map[string][]act{}
	for _, a := range c.acts {
		paths := make([]string, 0, len(a.values))
		for path, value := range a.values {
			groups[path+"="+value] = append(groups[path+"="+value], a)
			paths = append(paths, path+"="+value)
		}
		sort.Strings(paths)
		whole := strings.Join(paths, "\n")
		groups[whole] = append(groups[whole], a)
	}
	for value, acts := range groups {
		assert.Len(t, persons(acts), trailPeople, "%s joins the acts of fewer than all", value)
	}
}

// What stands both in the public records of a person and in an entry is a task that all six claimed.
func (c *trail) recordsAndLeaves(t *testing.T) {
	t.Helper()
	for _, a := range c.acts {
		raw, err := lexicons.CBORToJSON(mustLeaf(t, c, a.entry.Seq))
		require.NoError(t, err)
		leaf := string(raw)
		for person, values := range c.records {
			for _, v := range values {
				if v == "s1" || !strings.Contains(leaf, v) {
					continue
				}
				var also int
				for _, others := range c.records {
					if slices.Contains(others, v) {
						also++
					}
				}
				assert.Equal(t, trailPeople, also, "%s stands in entry %d and in records of %s", v, a.entry.Seq, person)
			}
		}
	}
	for uri, said := range c.explains {
		for _, a := range c.acts {
			for _, word := range []string{
				hex.EncodeToString(a.entry.Nullifier), base64.RawStdEncoding.EncodeToString(a.entry.Nullifier),
				base64.RawStdEncoding.EncodeToString(a.entry.Commitment.Value), fmt.Sprintf(`"seq":%d`, a.entry.Seq),
			} {
				if word != "" {
					assert.NotContains(t, said, word, "what is said of %s", uri)
				}
			}
		}
	}
}

func mustLeaf(t *testing.T, c *trail, seq int64) []byte {
	t.Helper()
	leaves, err := c.l.store.leaves(c.ctx, seq, 1)
	require.NoError(t, err)
	require.Len(t, leaves, 1)
	return leaves[0]
}

// The log does not grow when a person's record comes, and the claims of a shift stand in the order of their tokens: the i-th claim that the
// world saw may be any of six entries.
func (c *trail) orderOfClaims(t *testing.T) {
	t.Helper()
	require.Len(t, c.grown, 4*trailPeople)
	for uri, by := range c.grown {
		assert.Zero(t, by, "the log grew when %s came", uri)
	}
	shifts := map[string][]*entry.Entry{}
	for _, a := range c.acts {
		if a.entry.Kind == entry.KindClaim {
			shifts[a.entry.Claim.First] = append(shifts[a.entry.Claim.First], a.entry)
		}
	}
	require.Len(t, shifts, 3)
	for task, entries := range shifts {
		require.Len(t, entries, trailPeople, "candidates for each claim on %s", task)
		for i := 1; i < len(entries); i++ {
			assert.Equal(t, entries[i-1].Seq+1, entries[i].Seq, "one batch")
			assert.Negative(t, strings.Compare(string(entries[i-1].Nullifier), string(entries[i].Nullifier)), "sorted by token, not by time")
			assert.Empty(t, entries[i].At, "no time of a person's act")
		}
	}
}

// Every burn could be anybody's: who was ever paid enough are all six.
func (c *trail) amounts(t *testing.T) {
	t.Helper()
	earned := map[string]int64{}
	for _, a := range c.acts {
		if a.entry.Kind == entry.KindMint {
			earned[a.person] += a.entry.Amount
		}
	}
	for _, a := range c.acts {
		if a.entry.Kind != entry.KindBurn {
			continue
		}
		could := 0
		for _, sum := range earned {
			if sum >= a.entry.Amount {
				could++
			}
		}
		assert.Equal(t, trailPeople, could, "who could have burned %d", a.entry.Amount)
		assert.Empty(t, a.entry.At)
	}
}
