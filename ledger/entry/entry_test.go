package entry_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
)

func cause(org string) entry.Cause {
	return entry.Cause{URI: "at://" + org + "/org.city-sync.work.verification/3k", CID: "bafyone", Rev: "3krev", Key: "did:key:zQ3"}
}

func random() *rand.ChaCha8 { return rand.NewChaCha8([32]byte{1}) }

// samples has a sealed entry of each kind.
func samples(t testing.TB) []*entry.Entry {
	t.Helper()
	ref := entry.Ref{URI: "at://did:plc:city/org.city-sync.gov.parameterSet/3k", CID: "bafyparams"}
	account := &entry.Sealed{Account: entry.Account{9}, At: "2027-01-04T18:00:00Z"}
	token := bytes.Repeat([]byte{7}, 32)
	months := []entry.Month{{StartsAt: "2027-01-04T08:00:00Z", EndsAt: "2027-02-01T08:00:00Z"}}
	at, epoch, book := "2027-01-04T18:00:00Z", "e2027-01", "standard"
	list := []*entry.Entry{
		{Kind: entry.KindRulesVersion, At: at, RulesVersion: &entry.RulesVersion{Version: 1}},
		{Kind: entry.KindParameters, At: at, Causes: []entry.Cause{cause("did:plc:city")}, Params: &ref, Parameters: &entry.Parameters{
			EffectiveEpoch: epoch, ClaimLimit: 5, Tiers: []entry.Tier{{N: 1, CreditsPerHour: 8}}, Weights: []entry.Weight{{DID: "did:plc:a", Weight: 2}},
			Epochs: []entry.EpochPlan{{Key: epoch, StartsAt: at, EndsAt: "2027-03-29T07:00:00Z", TZ: "America/Los_Angeles", Months: months, Phase: "launch"}},
		}},
		{Kind: entry.KindBind, At: at, Org: "did:plc:a", Causes: []entry.Cause{cause("did:plc:city")}, Bind: &entry.Bind{
			What: entry.BindRole, Roles: []string{"issuer"}, Status: "active", ValidFrom: at, Delegates: []syntax.DID{"did:plc:b"}, Categories: []string{"activation"},
		}},
		{Kind: entry.KindBind, At: at, Org: "did:plc:a", Bind: &entry.Bind{What: entry.BindTill, Till: "abc", Key: "did:key:zDn"}},
		{Kind: entry.KindBind, Bind: &entry.Bind{What: entry.BindStaff}, Sealed: &entry.Sealed{Resident: "did:plc:r", Org: "did:plc:a", At: at}},
		{Kind: entry.KindActivate, Org: "did:plc:a", Sealed: &entry.Sealed{Account: entry.Account{9}, Resident: "did:plc:r", At: at}},
		{Kind: entry.KindEpochOpen, At: at, Epoch: epoch, Book: book, Params: &ref, EpochOpen: &entry.EpochOpen{
			StartsAt: at, EndsAt: "2027-03-29T07:00:00Z", TZ: "America/Los_Angeles", Months: months, Phase: "launch", Capacity: 10, Cap: 15,
			BoundBy: "launch", R: entry.Ratio{Num: 15, Den: 100}, Delta: entry.Ratio{Num: 3, Den: 100}, Unallocated: 1,
			Offerings:   []entry.CountedOffering{{URI: "at://did:plc:b/org.city-sync.offer.offering/3k", CID: "bafyoff", DID: "did:plc:b", Units: 5, Credits: 2}},
			Allocations: []entry.Allocation{{DID: "did:plc:a", Amount: 14}},
		}},
		{Kind: entry.KindReserve, At: at, Epoch: epoch, Book: book, Org: "did:plc:a", Amount: 16, Causes: []entry.Cause{cause("did:plc:a")}, Params: &ref,
			Cap: &entry.CapState{Cap: 15}, Reserve: &entry.Reserve{
				Task: ref, First: ref.URI, Entry: ref, Credits: 16, Tier: 1, TierRate: 8, Level: 1, Sensitivity: "public", ClaimOpensAt: at,
				Shifts: []entry.Shift{{ID: "a", StartsAt: at, EndsAt: "2027-01-04T20:00:00Z", Slots: 1}},
			}},
		{Kind: entry.KindRelease, At: at, Epoch: epoch, Book: book, Org: "did:plc:a", Amount: 3, Release: &entry.Release{First: ref.URI, Reason: "expired", Shifts: []string{"a"}}},
		{Kind: entry.KindClaim, Epoch: epoch, Book: book, Org: "did:plc:a", Nullifier: token, Claim: &entry.Claim{Task: ref, First: ref.URI, Shift: "a"}, Sealed: account},
		{Kind: entry.KindUnclaim, Epoch: epoch, Book: book, Org: "did:plc:a", Nullifier: token, Unclaim: &entry.Unclaim{First: ref.URI, Shift: "a", Reason: "lapsed", Closed: 1}},
		{Kind: entry.KindMint, Epoch: epoch, Book: book, Org: "did:plc:a", Amount: 16, Votes: 16, Causes: []entry.Cause{cause("did:plc:a"), cause("did:plc:b")},
			Params: &ref, Cap: &entry.CapState{Cap: 15, Before: 2}, Nullifier: token, Sealed: account, Mint: &entry.Mint{
				Task: ref, First: ref.URI, Shift: "a", Verifier: "did:plc:a", Outcome: "approved", Frozen: 16, Level: 3, Methods: []string{"attestation"},
				CoSigners: []syntax.DID{"did:plc:b"},
			}},
		{Kind: entry.KindBurn, Epoch: epoch, Book: book, Org: "did:plc:b", Amount: 4, Causes: []entry.Cause{cause("did:plc:b")}, Params: &ref, Sealed: account,
			Burn: &entry.Burn{Offering: ref, Units: 2, Price: 2, UnitsMonth: 5, Till: "abc"}},
	}
	list = append(list, laterSamples(ref, account, token, months)...)
	source := random()
	for i, e := range list {
		e.Seq, e.Day = int64(i), "2027-01-04"
		_, err := e.Seal(source)
		require.NoError(t, err)
	}
	return list
}

// laterSamples are those of the kinds that rest on earlier entries.
func laterSamples(ref entry.Ref, account *entry.Sealed, token []byte, months []entry.Month) []*entry.Entry {
	at, epoch, book := "2027-01-04T18:00:00Z", "e2027-01", "standard"
	city := []entry.Cause{cause("did:plc:city")}
	hash := bytes.Repeat([]byte{3}, 32)
	rate := entry.Ratio{Num: 15, Den: 100}
	return []*entry.Entry{
		{Kind: entry.KindBind, At: at, Org: "did:plc:a", Bind: &entry.Bind{What: entry.BindWitness, Key: "w+00000000+AA", Class: "issuers"}},
		{Kind: entry.KindBind, At: at, Bind: &entry.Bind{What: entry.BindPolicy, Hash: hash}},
		{Kind: entry.KindBind, At: at, Bind: &entry.Bind{What: entry.BindLogKey, Key: "did:plc:l+00000000+AA", Quorum: []entry.Sign{{Key: "w", Sig: hash}}}},
		{Kind: entry.KindHold, Epoch: epoch, Book: book, Org: "did:plc:b", Amount: 4, Causes: []entry.Cause{cause("did:plc:b")}, Params: &ref, Sealed: account,
			Hold: &entry.Hold{Offering: ref, Units: 2, Price: 2, Month: 1, UnitsBefore: 1, UnitsMonth: 5, Till: "abc", Until: "2027-01-06"}},
		{Kind: entry.KindCapture, Epoch: epoch, Book: book, Org: "did:plc:b", Amount: 4, Causes: []entry.Cause{cause("did:plc:b")}, Params: &ref, Sealed: account,
			Capture: &entry.Capture{Hold: 12, Till: "abc"}},
		{Kind: entry.KindVoid, Epoch: epoch, Book: book, Org: "did:plc:b", Amount: 4, Void: &entry.Void{Hold: 12, Reason: "expired"}},
		{Kind: entry.KindReverse, Epoch: epoch, Book: book, Org: "did:plc:b", Amount: 4, Reverse: &entry.Reverse{
			Of: 13, What: entry.KindCapture, Reason: "refused", Till: "abc",
		}},
		{Kind: entry.KindDormant, Epoch: epoch, Book: book, Amount: 7, Params: &ref, Dormant: &entry.Dormant{
			Month: 1, StartsAt: months[0].StartsAt, EndsAt: months[0].EndsAt, Issued: 16, Burned: 4, Reactivated: 2, Expired: 1, Active: 90, Dormant: 7,
		}},
		{Kind: entry.KindExpire, Epoch: epoch, Book: book, Amount: 3, Expire: &entry.Expire{Reason: "erased", Active: 2, Woken: 1}},
		{Kind: entry.KindEpochClose, At: at, Epoch: epoch, Book: book, Params: &ref, EpochClose: &entry.EpochClose{
			Months:   []entry.MonthFlow{{Issued: 16, Burned: 4, Quiet: 7, Reactivated: 2, Expired: 1, Active: 90, Dormant: 7}},
			Reserved: 96, Outstanding: 16, Minted: 64, Votes: 64, Measured: true, R: rate, Delta: rate,
			Next: &entry.NextCap{Epoch: "e2027-02", Phase: "steady", Capacity: 800, ShareBound: 9, BackBound: 8, Cap: 8, BoundBy: "backlog"},
		}},
		{Kind: entry.KindPause, At: at, Org: "did:plc:a", Causes: city, Pause: &entry.Pause{What: entry.PauseTask, Subject: ref.URI, Reason: "an objection"}},
		{Kind: entry.KindPause, At: at, Causes: city, Pause: &entry.Pause{What: entry.PauseMints, Until: "2027-01-20T08:00:00Z", Reason: "a fault"}},
		{Kind: entry.KindResume, At: at, Causes: city, Resume: &entry.Resume{What: entry.PauseMints, Reason: "mended"}},
		{Kind: entry.KindStateDigest, At: at, Sealed: &entry.Sealed{Seed: hash}, StateDigest: &entry.StateDigest{
			Digest: hash, Balances: []entry.BalancesRoot{{Book: book, Root: hash, Sum: 97, Height: 4}},
		}},
	}
}

// E1
func TestLeafOfEveryKindComesBackEqual(t *testing.T) {
	t.Parallel()
	kinds := map[entry.Kind]bool{}
	for _, e := range samples(t) {
		kinds[e.Kind] = true
		leaf, err := e.Encode()
		require.NoError(t, err)
		back, err := entry.Decode(leaf)
		require.NoError(t, err)
		again, err := back.Encode()
		require.NoError(t, err)
		assert.Equal(t, leaf, again)
		want := *e
		want.Sealed = nil
		assert.Equal(t, &want, back)
	}
	assert.Len(t, kinds, 21, "every kind of entry.go")
}

// The form of a leaf is a promise: this one may never change.
func TestLeafOfTheFirstEntryIsFixed(t *testing.T) {
	t.Parallel()
	leaf, err := samples(t)[0].Encode()
	require.NoError(t, err)
	assert.Equal(t, "a5"+
		"6261"+"74"+"74"+hex.EncodeToString([]byte("2027-01-04T18:00:00Z"))+
		"63"+hex.EncodeToString([]byte("day"))+"6a"+hex.EncodeToString([]byte("2027-01-04"))+
		"63"+hex.EncodeToString([]byte("seq"))+"00"+
		"64"+hex.EncodeToString([]byte("kind"))+"6c"+hex.EncodeToString([]byte("rulesVersion"))+
		"6c"+hex.EncodeToString([]byte("rulesVersion"))+"a1"+"67"+hex.EncodeToString([]byte("version"))+"01",
		hex.EncodeToString(leaf))
}

// E2, L12
func TestLeafShowsNothingSealed(t *testing.T) {
	t.Parallel()
	for _, e := range samples(t) {
		if e.Sealed == nil {
			continue
		}
		leaf, err := e.Encode()
		require.NoError(t, err)
		if len(e.Sealed.Seed) == 0 {
			assert.NotContains(t, string(leaf), "did:plc:r")
			assert.NotContains(t, string(leaf), string(e.Sealed.Account[:]))
			assert.NotContains(t, string(leaf), e.Sealed.At)
		}
		bare := *e
		bare.Commitment = nil
		_, err = bare.Encode()
		require.ErrorIs(t, err, entry.ErrLeaf, "%s must be sealed first", e.Kind)
	}
}

// E4, E5
func TestMalformedEntriesHaveNoLeaf(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kind entry.Kind
		edit func(*entry.Entry)
	}{
		"two bodies":             {entry.KindMint, func(e *entry.Entry) { e.Burn = &entry.Burn{} }},
		"another body":           {entry.KindMint, func(e *entry.Entry) { e.Kind = entry.KindBurn }},
		"no body":                {entry.KindClaim, func(e *entry.Entry) { e.Claim = nil }},
		"unknown kind":           {entry.KindClaim, func(e *entry.Entry) { e.Kind = "gift" }},
		"a time on a claim":      {entry.KindClaim, func(e *entry.Entry) { e.At = "2027-01-04T18:00:00Z" }},
		"a cause on a claim":     {entry.KindClaim, func(e *entry.Entry) { e.Causes = []entry.Cause{cause("did:plc:r")} }},
		"no time on a bind":      {entry.KindBind, func(e *entry.Entry) { e.At = "" }},
		"half a second":          {entry.KindBind, func(e *entry.Entry) { e.At = "2027-01-04T18:00:00.5Z" }},
		"another zone":           {entry.KindBind, func(e *entry.Entry) { e.At = "2027-01-04T18:00:00+01:00" }},
		"no such day":            {entry.KindClaim, func(e *entry.Entry) { e.Day = "2027-02-30" }},
		"negative amount":        {entry.KindMint, func(e *entry.Entry) { e.Amount = -1 }},
		"no amount":              {entry.KindMint, func(e *entry.Entry) { e.Amount = 0 }},
		"votes on a burn":        {entry.KindBurn, func(e *entry.Entry) { e.Votes = 1 }},
		"amount on a claim":      {entry.KindClaim, func(e *entry.Entry) { e.Amount = 1 }},
		"amount beyond counting": {entry.KindMint, func(e *entry.Entry) { e.Amount = 1 << 60 }},
		"short nullifier":        {entry.KindMint, func(e *entry.Entry) { e.Nullifier = e.Nullifier[:31] }},
		"commitment of 5 leaves": {entry.KindMint, func(e *entry.Entry) { e.Commitment.Padded = 5 }},
		"too large":              {entry.KindClaim, func(e *entry.Entry) { e.Claim.Shift = strings.Repeat("x", 5000) }},
		"not UTF-8":              {entry.KindClaim, func(e *entry.Entry) { e.Claim.Shift = "\xff" }},
		"hold without an end":    {entry.KindHold, func(e *entry.Entry) { e.Hold.Until = "" }},
		"hold without a cause":   {entry.KindHold, func(e *entry.Entry) { e.Causes = nil }},
		"time on a capture":      {entry.KindCapture, func(e *entry.Entry) { e.At = "2027-01-04T18:00:00Z" }},
		"capture of nothing":     {entry.KindCapture, func(e *entry.Entry) { e.Amount = 0 }},
		"void before the log":    {entry.KindVoid, func(e *entry.Entry) { e.Void.Hold = -1 }},
		"reverse of nothing":     {entry.KindReverse, func(e *entry.Entry) { e.Amount = 0 }},
		"month without an end":   {entry.KindDormant, func(e *entry.Entry) { e.Dormant.EndsAt = "" }},
		"stock below nothing":    {entry.KindDormant, func(e *entry.Entry) { e.Dormant.Active = -1 }},
		"expiry of nothing":      {entry.KindExpire, func(e *entry.Entry) { e.Amount = 0 }},
		"a rate over nothing":    {entry.KindEpochClose, func(e *entry.Entry) { e.EpochClose.R.Den = 0 }},
		"a flow below nothing":   {entry.KindEpochClose, func(e *entry.Entry) { e.EpochClose.Months[0].Quiet = -1 }},
		"next cap beyond counts": {entry.KindEpochClose, func(e *entry.Entry) { e.EpochClose.Next.Cap = 1 << 60 }},
		"pause without a cause":  {entry.KindPause, func(e *entry.Entry) { e.Causes = nil }},
		"resume without a time":  {entry.KindResume, func(e *entry.Entry) { e.At = "" }},
		"a short digest":         {entry.KindStateDigest, func(e *entry.Entry) { e.StateDigest.Digest = e.StateDigest.Digest[:31] }},
		"a tree too high":        {entry.KindStateDigest, func(e *entry.Entry) { e.StateDigest.Balances[0].Height = 41 }},
		"digest without a seed":  {entry.KindStateDigest, func(e *entry.Entry) { e.Commitment = nil }},
		"no seq":                 {entry.KindClaim, func(e *entry.Entry) { e.Seq = -1 }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, e := range samples(t) {
				if e.Kind == c.kind {
					c.edit(e)
					_, err := e.Encode()
					require.ErrorIs(t, err, entry.ErrLeaf)
					return
				}
			}
		})
	}
}

// E3
func TestLeafSizesAreBounded(t *testing.T) {
	t.Parallel()
	list := samples(t)
	var reserve, bind *entry.Entry
	for _, e := range list {
		switch {
		case e.Kind == entry.KindReserve:
			reserve = e
		case e.Kind == entry.KindBind && e.Bind.What == entry.BindRole:
			bind = e
		}
	}
	for i := range 99 {
		s := reserve.Reserve.Shifts[0]
		s.ID = fmt.Sprintf("shift-%02d", i)
		reserve.Reserve.Shifts = append(reserve.Reserve.Shifts, s)
	}
	leaf, err := reserve.Encode()
	require.NoError(t, err)
	assert.Greater(t, len(leaf), entry.MaxLeaf)
	assert.Less(t, len(leaf), entry.MaxListLeaf)
	for range 50 {
		bind.Bind.Delegates = append(bind.Bind.Delegates, syntax.DID("did:web:"+strings.Repeat("x", 100)))
	}
	_, err = bind.Encode()
	require.ErrorIs(t, err, entry.ErrLeaf)
	_, err = entry.Decode(make([]byte, entry.MaxListLeaf+1))
	require.ErrorIs(t, err, entry.ErrLeaf)
}

// E1
func TestDecodeRefusesEveryOtherForm(t *testing.T) {
	t.Parallel()
	leaf, err := samples(t)[0].Encode()
	require.NoError(t, err)
	good := hex.EncodeToString(leaf)
	key := func(s string) string { return hex.EncodeToString(append([]byte{0x60 | byte(len(s))}, s...)) }
	for name, bad := range map[string]string{
		"bytes after":          good + "00",
		"cut short":            good[:len(good)-2],
		"seq in two bytes":     strings.Replace(good, key("seq")+"00", key("seq")+"1800", 1),
		"seq as text":          strings.Replace(good, key("seq")+"00", key("seq")+"6130", 1),
		"seq as float":         strings.Replace(good, key("seq")+"00", key("seq")+"f90000", 1),
		"seq null":             strings.Replace(good, key("seq")+"00", key("seq")+"f6", 1),
		"seq below zero":       strings.Replace(good, key("seq")+"00", key("seq")+"20", 1),
		"unknown field":        "a6" + key("x") + "00" + good[2:],
		"a field twice":        "a6" + key("at") + "60" + good[2:],
		"fields out of order":  "a5" + key("day") + "6a" + hex.EncodeToString([]byte("2027-01-04")) + good[2:50] + good[80:],
		"indefinite map":       "bf" + good[2:] + "ff",
		"a tag":                "c1" + good,
		"a long map head":      "b805" + good[2:],
		"a huge map":           "bb7fffffffffffffff" + good[2:],
		"a huge text":          "a1" + "7b7fffffffffffffff",
		"zero value present":   strings.Replace(good, "a5", "a6", 1) + key("amount") + "00",
		"zero number in place": strings.Replace("a6"+good[2:], key("rulesVersion")+"a1", key("votes")+"00"+key("rulesVersion")+"a1", 1),
		"empty list in place":  strings.Replace("a6"+good[2:], key("rulesVersion")+"a1", key("causes")+"80"+key("rulesVersion")+"a1", 1),
		"no bytes in place":    strings.Replace("a6"+good[2:], key("rulesVersion")+"a1", key("nullifier")+"40"+key("rulesVersion")+"a1", 1),
		"seq missing":          strings.Replace("a4"+good[2:], key("seq")+"00", "", 1),
		"version missing":      good[:len(good)-2*len("avversion")-2] + "a0",
		"nothing":              "",
	} {
		raw, err := hex.DecodeString(bad)
		require.NoError(t, err, name)
		_, err = entry.Decode(raw)
		assert.ErrorIs(t, err, entry.ErrLeaf, name)
	}
}

func TestTimesHaveOneForm(t *testing.T) {
	t.Parallel()
	berkeley, err := time.LoadLocation("America/Los_Angeles")
	require.NoError(t, err)
	at := time.Date(2027, 1, 4, 23, 30, 15, 999, berkeley)
	assert.Equal(t, "2027-01-05T07:30:15Z", entry.FormatTime(at))
	assert.Equal(t, "2027-01-04", entry.FormatDay(at, berkeley))
	_, err = entry.ParseTime("2027-01-05 07:30:15")
	require.Error(t, err)
}

func TestTokenIsOfEpochTaskShiftAndAccount(t *testing.T) {
	t.Parallel()
	key, account := [32]byte{1}, entry.Account{2}
	token := entry.Token(key, "at://did:plc:a/org.city-sync.work.task/3k", "a", account)
	// HMAC-SHA-256 over ["org.city-sync.nullifier.v1", uri, shift, bytes], computed apart.
	assert.Equal(t, "94497bcb9ff8083bc6670d3e1840cf082bab1cab3c87d42f278e0c7ee515e731", hex.EncodeToString(token))
	seen := map[string]bool{string(token): true}
	for _, other := range [][]byte{
		entry.Token([32]byte{3}, "at://did:plc:a/org.city-sync.work.task/3k", "a", account),
		entry.Token(key, "at://did:plc:a/org.city-sync.work.task/3l", "a", account),
		entry.Token(key, "at://did:plc:a/org.city-sync.work.task/3k", "b", account),
		entry.Token(key, "at://did:plc:a/org.city-sync.work.task/3k", "a", entry.Account{4}),
		entry.Token(key, "at://did:plc:a/org.city-sync.work.task/3ka", "", account),
	} {
		assert.False(t, seen[string(other)])
		seen[string(other)] = true
	}
}

func FuzzDecode(f *testing.F) {
	for _, e := range samples(f) {
		leaf, err := e.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(leaf)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := entry.Decode(data)
		if err != nil {
			return
		}
		again, err := e.Encode()
		require.NoError(t, err)
		require.Equal(t, data, again)
	})
}
