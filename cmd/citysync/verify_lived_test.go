package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/lexicons"
)

// live goes on with a small city until its epoch is over: holds, an undo, an objection, a redeemer's pause, a decision, and the months.
func (c *smallCity) live() {
	c.t.Helper()
	w := c.world
	till := entry.TillID(c.bus.DID.String(), rulestest.TillKey)
	today := entry.FormatDay(w.Now, w.State.Location())
	aside := rules.PutAside{Now: w.Now, Resident: rulestest.Resident(1), Offering: c.ride, Units: 1, Till: till, Until: today, NoneOfFreeFor: true}
	w.Must(aside)
	w.Must(rules.Capture{Now: w.Now, Hold: w.Last(), Till: till, At: w.Now})
	w.Must(aside)
	w.Must(rules.EndHold{Now: w.Now, Hold: w.Last(), Reason: entry.VoidRefused})
	w.Must(rules.Burn{Now: w.Now, Account: rulestest.Account(1), Offering: c.ride, Units: 1, Till: till})
	w.Must(rules.Undo{Now: w.Now, Of: w.Last(), Till: till, Reason: entry.ReverseUndone})

	mint, err := entry.Decode(w.Leaves[c.seqOf(entry.KindMint)])
	require.NoError(c.t, err)
	dispute := c.put(c.bus, lexicons.GovDispute, c.tid(), anyMap{
		"subject": refOf(entry.Cause{URI: mint.Mint.Task.URI, CID: mint.Mint.Task.CID}), "kind": "org.city-sync.defs#disputeNonDisplacement",
		"summary": "This was paid work.", "createdAt": "2027-01-04T18:10:00Z",
	})
	answer := func(key, result string) entry.Cause {
		return c.put(c.city, lexicons.GovResolution, key, anyMap{
			"dispute": refOf(dispute), "result": result, "reasons": "We looked into it.", "createdAt": "2027-01-04T18:20:00Z",
		})
	}
	key := lexicons.ResolutionKey(dispute.URI)
	w.Must(rules.Pause{
		Now: w.Now, What: entry.PauseTask, Subject: c.shelving, Reason: "objection", Record: answer(key+lexicons.AdmissionSuffix, "admitted"),
	})
	w.Must(rules.Resume{Now: w.Now, What: entry.PauseTask, Subject: c.shelving, Reason: "dismissed", Record: answer(key, "dismissed")})
	rkey := c.ride.Record.URI[strings.LastIndexByte(c.ride.Record.URI, '/')+1:]
	w.Must(rules.Pause{
		Now: w.Now, What: entry.PauseOffering, Subject: c.ride.Record.URI, Reason: "repair",
		Record: c.put(c.bus, lexicons.OfferOfferingStatus, rkey, anyMap{"status": "paused", "reason": "repair", "offering": refOf(c.ride.Record)}),
	})
	decision := c.put(c.city, lexicons.GovDecision, lexicons.DecisionKey(dispute.URI), anyMap{
		"proposal": refOf(dispute), "result": "adopted", "rationale": "A flood.", "effectiveEpoch": rulestest.Epoch, "instrument": anyMap{"uri": "https://city.example/s", "title": "S"},
	})
	w.Must(rules.Pause{Now: w.Now, What: entry.PauseClaims, Until: w.Now.Add(72 * time.Hour), Reason: "flood", Record: decision})
	for _, at := range []string{"2027-01-05 09:00", "2027-02-01 09:00", "2027-03-01 09:00", "2027-03-29 09:00"} {
		w.Now = w.At(at)
		w.Must(rules.CloseMonths{Now: w.Now})
		for _, close := range w.State.EpochsToClose(w.Now) {
			w.Must(close)
		}
		seed := sha256.Sum256([]byte(at))
		w.Must(rules.Digest{Now: w.Now, Seed: seed[:]})
	}
	c.leaves = w.Leaves
}

func newLivedCity(t *testing.T) *smallCity {
	t.Helper()
	c := newSmallCity(t)
	c.live()
	return c
}

func TestVerifyFindsALivedCityRight(t *testing.T) {
	t.Parallel()
	c := newLivedCity(t)
	c.publish()
	r, err := c.verify("")
	require.NoError(t, err)
	require.Empty(t, lines(r))
	for _, check := range r.Checks {
		assert.True(t, check.OK, check.Name)
		if check.Name != checkCosigned {
			assert.Positive(t, check.Count, check.Name)
		}
	}
	assert.Equal(t, levelAnyone, r.Level)
}

// nth is the seq of the n-th entry that is wanted.
func (c *smallCity) nth(n int, want func(*entry.Entry) bool) int64 {
	c.t.Helper()
	for i, leaf := range c.leaves {
		e, err := entry.Decode(leaf)
		require.NoError(c.t, err)
		if want(e) {
			if n == 0 {
				return int64(i)
			}
			n--
		}
	}
	require.Fail(c.t, "no such entry")
	return 0
}

// forge is edit for the entry at a seq.
func (c *smallCity) forge(seq int64, change func(*entry.Entry)) int64 {
	c.t.Helper()
	e, err := entry.Decode(c.leaves[seq])
	require.NoError(c.t, err)
	change(e)
	c.leaves = slices.Clone(c.leaves)
	c.leaves[seq], err = e.Encode()
	require.NoError(c.t, err)
	return seq
}

func TestVerifyNamesTheEntryOfAnEvilLife(t *testing.T) {
	t.Parallel()
	pauseOf := func(what string) func(*entry.Entry) bool {
		return func(e *entry.Entry) bool { return e.Kind == entry.KindPause && e.Pause.What == what }
	}
	for name, evil := range map[string]func(*smallCity) wrongAt{
		"a hold over the units": func(c *smallCity) wrongAt {
			seq := c.edit(entry.KindHold, func(e *entry.Entry) { e.Hold.Units, e.Amount = 300, 1200 })
			return wrongAt{checkRedeemed, seq, "units of 200 committed"}
		},
		"a hold at a price that the offering does not have": func(c *smallCity) wrongAt {
			seq := c.edit(entry.KindHold, func(e *entry.Entry) { e.Hold.Price, e.Amount = 3, 3 })
			return wrongAt{checkTerms, seq, "creditsPerUnit is 4, the entry says 3"}
		},
		"a hold captured for more": func(c *smallCity) wrongAt {
			seq := c.edit(entry.KindCapture, func(e *entry.Entry) { e.Amount = 5 })
			return wrongAt{checkRedeemed, seq, "capture of 5, the hold is of 4"}
		},
		"a hold captured twice": func(c *smallCity) wrongAt {
			captured := c.seqOf(entry.KindCapture)
			seq := c.edit(entry.KindVoid, func(e *entry.Entry) { e.Void.Hold = captured - 1 })
			return wrongAt{checkRedeemed, seq, "a second end of hold"}
		},
		"a reversal of more than was burned": func(c *smallCity) wrongAt {
			seq := c.edit(entry.KindReverse, func(e *entry.Entry) { e.Amount = 8 })
			return wrongAt{checkRedeemed, seq, "reversal of 8, 4 were burned"}
		},
		"a pause that no objection bears out": func(c *smallCity) wrongAt {
			seq := c.seqOf(entry.KindPause)
			resumed, err := entry.Decode(c.leaves[c.seqOf(entry.KindResume)])
			require.NoError(c.t, err)
			c.forge(seq, func(e *entry.Entry) { e.Causes = resumed.Causes })
			return wrongAt{checkStops, seq, `its result is "dismissed"`}
		},
		"a pause of another's offering": func(c *smallCity) wrongAt {
			seq := c.forge(c.nth(0, pauseOf(entry.PauseOffering)), func(e *entry.Entry) { e.Org = c.library.DID })
			return wrongAt{checkStops, seq, "which is not of"}
		},
		"a pause without a decision of the city": func(c *smallCity) wrongAt {
			status, err := entry.Decode(c.leaves[c.nth(0, pauseOf(entry.PauseOffering))])
			require.NoError(c.t, err)
			seq := c.forge(c.nth(0, pauseOf(entry.PauseClaims)), func(e *entry.Entry) { e.Causes = status.Causes })
			return wrongAt{checkStops, seq, "may not stop claims"}
		},
		"a month with more issued": func(c *smallCity) wrongAt {
			seq := c.edit(entry.KindDormant, func(e *entry.Entry) { e.Dormant.Issued++ })
			return wrongAt{checkMonths, seq, "the entries give"}
		},
		"another quiet figure": func(c *smallCity) wrongAt {
			seq := c.edit(entry.KindDormant, func(e *entry.Entry) { e.Amount++ })
			return wrongAt{checkMonths, seq, "the flows give"}
		},
		"another rate": func(c *smallCity) wrongAt {
			seq := c.edit(entry.KindEpochClose, func(e *entry.Entry) { e.EpochClose.R.Num++ })
			return wrongAt{checkMonths, seq, "rates are r"}
		},
		"another next cap": func(c *smallCity) wrongAt {
			seq := c.edit(entry.KindEpochClose, func(e *entry.Entry) { e.EpochClose.Next.Cap++ })
			return wrongAt{checkMonths, seq, "recomputed e2027-02 with"}
		},
		"another digest": func(c *smallCity) wrongAt {
			seq := c.edit(entry.KindStateDigest, func(e *entry.Entry) { e.StateDigest.Digest[0] ^= 1 })
			return wrongAt{checkDigests, seq, "digest is"}
		},
		"another sum of balances": func(c *smallCity) wrongAt {
			seq := c.edit(entry.KindStateDigest, func(e *entry.Entry) { e.StateDigest.Balances[0].Sum++ })
			return wrongAt{checkDigests, seq, "sum up to"}
		},
		"a checkpoint with other balances": func(c *smallCity) wrongAt {
			seq := c.nth(3, isDigest)
			c.instead["/checkpoint"] = func([]byte) []byte { return c.saying(tlog.BalancesLine(seq, tlog.Hash{9})) }
			return wrongAt{checkDigests, seq, "of the balances, the entry gives"}
		},
		"a checkpoint without balances": func(c *smallCity) wrongAt {
			c.instead["/checkpoint"] = func([]byte) []byte { return c.saying() }
			return wrongAt{checkDigests, c.nth(3, isDigest), "it has no balances, and this entry has"}
		},
		"a checkpoint with the balances of before": func(c *smallCity) wrongAt {
			before := c.nth(2, isDigest)
			c.instead["/checkpoint"] = func([]byte) []byte { return c.saying(c.balances(before + 1)...) }
			return wrongAt{checkDigests, c.nth(3, isDigest), fmt.Sprintf("it has the balances of entry %d, and this one is newer", before)}
		},
		"a published checkpoint whose note has no balances": func(c *smallCity) wrongAt {
			c.checkpoint = func(size int64, r anyMap) anyMap {
				if size == c.size() {
					r["note"] = string(c.saying())
				}
				return r
			}
			return wrongAt{checkDigests, c.nth(3, isDigest), "it has no balances, and this entry has"}
		},
		"a published checkpoint that leaves out the balances of its note": func(c *smallCity) wrongAt {
			c.checkpoint = func(size int64, r anyMap) anyMap {
				if size == c.size() {
					delete(r, "balancesRoot")
				}
				return r
			}
			return wrongAt{checkDigests, c.nth(3, isDigest), "its root of balances is , its note says"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newLivedCity(t)
			want := evil(c)
			c.publish()
			r, err := c.verify("")
			require.NoError(t, err)
			requireWrong(t, r, want)
		})
	}
}

func isDigest(e *entry.Entry) bool { return e.Kind == entry.KindStateDigest }

// saying is the checkpoint of the whole log with these extension lines.
func (c *smallCity) saying(extensions ...string) []byte {
	c.t.Helper()
	root, err := c.tree(c.size()).Root(c.size())
	require.NoError(c.t, err)
	signed, err := tlog.Sign(tlog.Checkpoint{Origin: c.ledger.DID.String(), Size: c.size(), Root: root, Extensions: extensions}, c.skey)
	require.NoError(c.t, err)
	return signed
}

// written puts bytes in a file of the test.
func written(t *testing.T, data []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(name, data, 0o600))
	return name
}

func TestVerifyNamesASplitViewAndARollback(t *testing.T) {
	t.Parallel()
	c := newSmallCity(t)
	c.publish()
	seen := func(size int64, root tlog.Hash) string { return written(t, c.note(size, root)) }
	good := func(size int64) string {
		root, err := c.tree(size).Root(size)
		require.NoError(t, err)
		return seen(size, root)
	}
	verify := func(files ...string) verifyResult {
		r, err := c.verifyWith(verifyConfig{Target: c.log.URL, Checkpoints: files})
		require.NoError(t, err)
		return r
	}
	r := verify(good(c.size()), good(4), c.log.URL+"/checkpoint")
	require.Empty(t, lines(r))
	require.True(t, r.OK)
	requireWrong(t, verify(good(4), seen(9, tlog.Hash{5})), wrongAt{checkViews, 4, "a split view between entries 4 and 8"})
	ahead, err := tlog.Sign(tlog.Checkpoint{Origin: c.ledger.DID.String(), Size: c.size() + 3, Root: tlog.Hash{5}}, c.skey)
	require.NoError(t, err)
	requireWrong(t, verify(written(t, ahead)), wrongAt{checkViews, c.size(), "a rollback"})
	requireWrong(t, verify(written(t, []byte("not a note"))), wrongAt{checkViews, noEntry, "the checkpoint given"})
	_, err = c.verifyWith(verifyConfig{Target: c.log.URL, Checkpoints: []string{filepath.Join(t.TempDir(), "none")}})
	require.ErrorIs(t, err, errCouldNot)
}

// nextKey names another key in the log, an hour ago.
func (c *smallCity) nextKey() (skey string, seq int64) {
	c.t.Helper()
	skey, vkey, err := tlog.GenerateKey(strings.NewReader(strings.Repeat("y", 64)), c.ledger.DID.String())
	require.NoError(c.t, err)
	c.world.Must(rules.BindLogKey{Now: c.world.Now, Key: vkey})
	c.leaves = c.world.Leaves
	return skey, c.world.Last()
}

func TestVerifyFollowsTheLogsKey(t *testing.T) {
	t.Parallel()
	c := newSmallCity(t)
	old := c.skey
	next, seq := c.nextKey()
	c.skeys = []string{old, next}
	c.publish() // while both sign
	r, err := c.verify("")
	require.NoError(t, err)
	require.Empty(t, lines(r))

	c.skeys = []string{next} // the overlap is over, and the city's record still has the first
	c.world.Now = c.world.Now.Add(tlog.KeyOverlap + time.Hour)
	r, err = c.verify("")
	require.NoError(t, err)
	require.Empty(t, lines(r))
	require.True(t, r.OK)

	c.skeys = []string{old}
	r, err = c.verify("")
	require.NoError(t, err)
	requireWrong(t, r, wrongAt{checkKeys, seq, "a stale signature: by a log key that ended on"})
}

func TestVerifyNamesALogKeyThatNobodyVouchesFor(t *testing.T) {
	t.Parallel()
	c := newSmallCity(t)
	c.publish()
	next, seq := c.nextKey()
	c.skeys = []string{next}
	r, err := c.verify("")
	require.NoError(t, err)
	requireWrong(t, r, wrongAt{checkKeys, seq, "no checkpoint is signed by the log key that it names"})
}

// openings writes what the log's openings are, as a validator keeps them.
func (c *smallCity) openings(change func(seq int64, raw []byte) ([]byte, bool)) string {
	c.t.Helper()
	var b strings.Builder
	for seq := range int64(len(c.leaves)) {
		raw, ok := c.world.Openings[seq], c.world.Openings[seq] != nil
		if change != nil && ok {
			raw, ok = change(seq, raw)
		}
		if !ok {
			continue
		}
		text := any(nil)
		if raw != nil {
			text = base64.StdEncoding.EncodeToString(raw)
		}
		line, err := json.Marshal(anyMap{"seq": seq, "opening": text})
		require.NoError(c.t, err)
		fmt.Fprintf(&b, "%s\n", line)
	}
	return written(c.t, []byte(b.String()))
}

func TestVerifyReexecutesAsAValidator(t *testing.T) {
	t.Parallel()
	c := newLivedCity(t)
	c.publish()
	r, err := c.verifyWith(verifyConfig{Target: c.log.URL, ValidatorOpenings: c.openings(nil)})
	require.NoError(t, err)
	require.Empty(t, lines(r))
	assert.Equal(t, levelValidator, r.Level)
	i := slices.IndexFunc(r.Checks, func(k verifyCheck) bool { return k.Name == checkOpenings })
	require.GreaterOrEqual(t, i, 0)
	assert.EqualValues(t, len(c.world.Openings), r.Checks[i].Count)
	assert.Contains(t, r.Checks[i].Detail, "4 roots of balances recomputed")

	burn := c.seqOf(entry.KindBurn)
	r, err = c.verifyWith(verifyConfig{Target: c.log.URL, ValidatorOpenings: c.openings(func(seq int64, raw []byte) ([]byte, bool) { return raw, seq != burn })})
	require.NoError(t, err)
	requireWrong(t, r, wrongAt{checkOpenings, burn, "its opening is missing"})
	r, err = c.verifyWith(verifyConfig{Target: c.log.URL, ValidatorOpenings: c.openings(func(seq int64, raw []byte) ([]byte, bool) {
		if seq == burn {
			return c.world.Openings[c.seqOf(entry.KindMint)], true
		}
		return raw, true
	})})
	require.NoError(t, err)
	requireWrong(t, r, wrongAt{checkOpenings, burn, "opening does not match commitment"})
}

func TestVerifyOpensAResidentsOwnEntries(t *testing.T) {
	t.Parallel()
	c := newLivedCity(t)
	c.publish()
	digest := func(seq int64, raw []byte) ([]byte, bool) {
		e, err := entry.Decode(c.leaves[seq])
		require.NoError(t, err)
		return raw, e.Kind != entry.KindStateDigest
	}
	r, err := c.verifyWith(verifyConfig{Target: c.log.URL, Openings: c.openings(digest)})
	require.NoError(t, err)
	require.Empty(t, lines(r))
	assert.Equal(t, levelResident, r.Level)
	i := slices.IndexFunc(r.Checks, func(k verifyCheck) bool { return k.Name == checkOpenings })
	assert.Contains(t, r.Checks[i].Detail, "standard: ")

	mint := c.seqOf(entry.KindMint)
	mine := func(value string) string {
		o, err := entry.DecodeOpening(c.world.Openings[mint])
		require.NoError(t, err)
		account, ok := o.Open("account")
		require.True(t, ok)
		at, ok := o.Open("at")
		require.True(t, ok)
		path := func(f *entry.FieldOpening) (list []anyMap) {
			for _, p := range f.Path {
				list = append(list, bytesOf(p))
			}
			return list
		}
		if value == "" {
			value = at.Field.Value.(string)
		}
		raw, err := json.Marshal(anyMap{"openings": []anyMap{{"seq": mint, "kind": "mint", "fields": []anyMap{
			{"name": "account", "bytes": bytesOf(account.Field.Value.([]byte)), "salt": bytesOf(account.Field.Salt), "index": account.Index, "path": path(account)},
			{"name": "at", "text": value, "salt": bytesOf(at.Field.Salt), "index": at.Index, "path": path(at)},
		}}}})
		require.NoError(t, err)
		return written(t, raw)
	}
	r, err = c.verifyWith(verifyConfig{Target: c.log.URL, Openings: mine("")})
	require.NoError(t, err)
	require.Empty(t, lines(r))
	r, err = c.verifyWith(verifyConfig{Target: c.log.URL, Openings: mine("2027-01-04T17:00:00Z")})
	require.NoError(t, err)
	requireWrong(t, r, wrongAt{checkOpenings, mint, "opening does not match commitment"})
	r, err = c.verifyWith(verifyConfig{Target: c.log.URL, Openings: c.openings(func(seq int64, raw []byte) ([]byte, bool) {
		return c.world.Openings[c.seqOf(entry.KindBurn)], seq == mint
	})})
	require.NoError(t, err)
	requireWrong(t, r, wrongAt{checkOpenings, mint, "opening does not match commitment"})
}

func TestVerifyProvesAResidentsBalance(t *testing.T) {
	t.Parallel()
	c := newLivedCity(t)
	c.publish()
	seq := c.nth(0, func(e *entry.Entry) bool { return e.Kind == entry.KindStateDigest })
	state := rules.NewState(c.world.State.Location())
	for i := range c.world.Entries[:seq+1] {
		require.NoError(t, rules.Apply(state, c.world.Entries[i]))
	}
	shares, root, _, ok := state.BalanceProof(rulestest.Account(1), rulestest.Book)
	require.True(t, ok)
	answer := func(sum int64) string {
		var views []anyMap
		for _, s := range shares {
			var path []anyMap
			for _, step := range s.Path {
				path = append(path, anyMap{"hash": bytesOf(step.Hash), "sum": step.Sum})
			}
			views = append(views, anyMap{"index": s.Index, "nonce": bytesOf(s.Nonce), "sum": s.Sum, "path": path})
		}
		account := rulestest.Account(1)
		raw, err := json.Marshal(anyMap{
			"book": root.Book, "seq": seq, "account": bytesOf(account[:]), "root": bytesOf(root.Root), "sum": sum, "height": root.Height, "shares": views,
		})
		require.NoError(t, err)
		return written(t, raw)
	}
	r, err := c.verifyWith(verifyConfig{Target: c.log.URL, Openings: answer(root.Sum)})
	require.NoError(t, err)
	require.Empty(t, lines(r))
	i := slices.IndexFunc(r.Checks, func(k verifyCheck) bool { return k.Name == checkOpenings })
	assert.Contains(t, r.Checks[i].Detail, fmt.Sprintf("4 of standard are in the balances of entry %d", seq))
	r, err = c.verifyWith(verifyConfig{Target: c.log.URL, Openings: answer(root.Sum + 1)})
	require.NoError(t, err)
	requireWrong(t, r, wrongAt{checkOpenings, seq, "its root is not one of its entry's"})
}

func TestReadOpeningsTakesAnswersOfTheLedgerToo(t *testing.T) {
	t.Parallel()
	got, err := readOpenings(written(t, []byte(`{"openings":[{"seq":3,"sealed":{"$bytes":"AQI"}},{"seq":4}],"next":5}
{"seq":7,"opening":"AQI="} {"seq":8,"opening":null}`)))
	require.NoError(t, err)
	assert.Equal(t, openings{3: {1, 2}, 4: nil, 7: {1, 2}, 8: nil}, got.whole)
	for _, bad := range []string{`{"opening":"AQI="}`, `{"seq":1}{"seq":1}`, `{"seq":-1}`, `{"seq":1,"opening":7}`, `{"seq":1,"opening":"?"}`, `{`, `[]`} {
		_, err := readOpenings(written(t, []byte(bad)))
		require.Error(t, err, bad)
	}
}

func FuzzReadOpenings(f *testing.F) {
	f.Add(`{"openings":[{"seq":3,"sealed":{"$bytes":"AQI"}}]}`)
	f.Add(`{"seq":7,"opening":"AQI="} {"seq":8,"opening":null}`)
	f.Fuzz(func(t *testing.T, text string) {
		out := &given{whole: openings{}, fields: map[int64][]*entry.FieldOpening{}}
		_ = out.decode(strings.NewReader(text)) // an error is as good
		for seq := range out.whole {
			require.GreaterOrEqual(t, seq, int64(0))
		}
	})
}
