package voucher_test

import (
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"
	"pgregory.net/rapid"

	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/ledger/voucher"
)

const ledger = "did:plc:ledger"

var made = time.Date(2027, 1, 13, 20, 0, 0, 0, time.UTC)

func swim() voucher.Voucher {
	return voucher.Voucher{
		Ledger: ledger, What: voucher.Burn, Till: "till1", Offering: "at://did:plc:pool/org.city-sync.offer.offering/swim", Version: "bafyswim",
		Units: 2, Credits: 16, Receipt: 123, Code: "ABCDEFGH", IssuedAt: made, ExpiresAt: made.Add(12 * time.Hour),
	}
}

func keys(t require.TestingT) (skey, vkey string) {
	skey, vkey, err := tlog.GenerateKey(rand.Reader, ledger)
	require.NoError(t, err)
	return skey, vkey
}

func TestATillChecksAVoucherByItself(t *testing.T) {
	t.Parallel()
	skey, vkey := keys(t)
	signed, err := voucher.Sign(swim(), skey)
	require.NoError(t, err)
	now := made.Add(time.Hour)
	got, err := voucher.Check(signed, vkey, "till1", now)
	require.NoError(t, err)
	assert.Equal(t, swim(), got)
	_, other := keys(t)
	for name, c := range map[string]struct {
		want       error
		vkey, till string
		now        time.Time
	}{
		"another ledger's":   {voucher.ErrVoucher, other, "till1", now},
		"another till":       {voucher.ErrOtherTill, vkey, "till2", now},
		"over":               {voucher.ErrTime, vkey, "till1", made.Add(12 * time.Hour)},
		"of tomorrow":        {voucher.ErrTime, vkey, "till1", made.Add(-6 * time.Minute)},
		"a key that is none": {voucher.ErrVoucher, "x", "till1", now},
	} {
		_, err := voucher.Check(signed, c.vkey, c.till, c.now)
		assert.ErrorIs(t, err, c.want, name)
	}
}

// A voucher shown twice is the same receipt twice; two redemptions are two receipts.
func TestSecondShowingIsTheSameReceipt(t *testing.T) {
	t.Parallel()
	skey, vkey := keys(t)
	honored := map[int64]bool{}
	show := func(v voucher.Voucher) bool {
		signed, err := voucher.Sign(v, skey)
		require.NoError(t, err)
		got, err := voucher.Check(signed, vkey, "till1", made)
		require.NoError(t, err)
		again := honored[got.Receipt]
		honored[got.Receipt] = true
		return again
	}
	next := swim()
	next.Receipt++
	assert.False(t, show(swim()))
	assert.True(t, show(swim()))
	assert.False(t, show(next))
}

func TestNoVoucherIsACheckpointAndNoCheckpointAVoucher(t *testing.T) {
	t.Parallel()
	skey, vkey := keys(t)
	signed, err := voucher.Sign(swim(), skey)
	require.NoError(t, err)
	_, err = tlog.Open(signed, vkey)
	require.ErrorIs(t, err, tlog.ErrCheckpoint)
	cp, err := tlog.Sign(tlog.Checkpoint{Origin: ledger, Size: 7}, skey)
	require.NoError(t, err)
	_, err = voucher.Open(cp, vkey)
	require.ErrorIs(t, err, voucher.ErrVoucher)
	// Not even where the log's key itself signed the words of the other.
	signer, err := note.NewSigner(skey)
	require.NoError(t, err)
	forged, err := note.Sign(&note.Note{Text: swim().Text()}, signer)
	require.NoError(t, err)
	_, err = tlog.Open(forged, vkey)
	require.ErrorIs(t, err, tlog.ErrCheckpoint)
	_, err = voucher.Open(forged, vkey)
	require.ErrorIs(t, err, voucher.ErrVoucher)
}

// While the log changes its key a till may know either.
func TestAVoucherByTwoKeysIsGoodUnderEach(t *testing.T) {
	t.Parallel()
	skey, vkey := keys(t)
	nextS, nextV := keys(t)
	_, other := keys(t)
	signed, err := voucher.Sign(swim(), skey, nextS)
	require.NoError(t, err)
	for _, key := range []string{vkey, nextV} {
		got, err := voucher.Check(signed, key, "till1", made)
		require.NoError(t, err)
		assert.Equal(t, swim(), got)
	}
	_, err = voucher.Open(signed, other)
	require.ErrorIs(t, err, voucher.ErrVoucher)
	_, err = voucher.Sign(swim())
	require.ErrorContains(t, err, "no log key")
	_, err = voucher.Sign(swim(), skey, "PRIVATE+KEY+none")
	require.Error(t, err)
}

func TestNoByteOfAVoucherCanBeChanged(t *testing.T) {
	t.Parallel()
	skey, vkey := keys(t)
	signed, err := voucher.Sign(swim(), skey)
	require.NoError(t, err)
	rapid.Check(t, func(t *rapid.T) {
		i := rapid.IntRange(0, len(signed)-1).Draw(t, "at")
		bit := byte(1) << rapid.IntRange(0, 7).Draw(t, "bit")
		changed := append([]byte{}, signed...)
		changed[i] ^= bit
		_, err := voucher.Open(changed, vkey)
		require.ErrorIs(t, err, voucher.ErrVoucher)
	})
}

func TestVoucherReadsBackAsItWasWritten(t *testing.T) {
	t.Parallel()
	skey, vkey := keys(t)
	word := rapid.StringMatching(`[a-z0-9:/.]{1,100}`)
	rapid.Check(t, func(t *rapid.T) {
		v := voucher.Voucher{
			Ledger: ledger, What: rapid.SampledFrom([]string{voucher.Burn, voucher.Hold}).Draw(t, "what"), Till: word.Draw(t, "till"),
			Offering: word.Draw(t, "offering"), Version: word.Draw(t, "version"), Units: rapid.Int64Range(1, 1e9).Draw(t, "units"),
			Credits: rapid.Int64Range(1, 1e12).Draw(t, "credits"), Receipt: rapid.Int64Range(0, 1e12-1).Draw(t, "receipt"),
			Code:     rapid.StringMatching(`([A-Z2-9]{8})?`).Draw(t, "code"),
			IssuedAt: made.Add(time.Duration(rapid.Int64Range(0, 1e8).Draw(t, "at")) * time.Second), ExpiresAt: made,
		}
		signed, err := voucher.Sign(v, skey)
		require.NoError(t, err)
		got, err := voucher.Open(signed, vkey)
		require.NoError(t, err)
		require.Equal(t, v, got)
	})
	for _, bad := range []func(*voucher.Voucher){
		func(v *voucher.Voucher) { v.Ledger = "did:plc:other" },
		func(v *voucher.Voucher) { v.Till = "a\nb" },
		func(v *voucher.Voucher) { v.What = "gift" },
		func(v *voucher.Voucher) { v.Units = 0 },
		func(v *voucher.Voucher) { v.Offering = strings.Repeat("x", voucher.MaxNote) },
	} {
		v := swim()
		bad(&v)
		_, err := voucher.Sign(v, skey)
		require.Error(t, err)
	}
}

// FuzzVoucher: what is read is written again as it stood.
func FuzzVoucher(f *testing.F) {
	f.Add(swim().Text())
	f.Add(strings.Replace(swim().Text(), "units 2", "units +2", 1))
	f.Add(strings.Replace(swim().Text(), "ABCDEFGH", "-", 1))
	f.Add(strings.Replace(swim().Text(), "20:00:00Z", "21:00:00+01:00", 1))
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		v, err := voucher.Parse(text)
		if err != nil {
			require.ErrorIs(t, err, voucher.ErrVoucher)
			return
		}
		require.Equal(t, text, v.Text())
	})
}
