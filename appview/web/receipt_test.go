package web

import (
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"html"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"rsc.io/qr/coding"

	"city-sync.org/citysync/appview/logtest"
	"city-sync.org/citysync/internal/qrsvg"
	"city-sync.org/citysync/ledger/tlog"
)

func TestReceiptShowsWhatItIsAndHoldsItsProof(t *testing.T) {
	t.Parallel()
	p, told, _ := town(t, witnessed)
	policy, err := tlog.ParsePolicy([]byte(told.Policy()))
	require.NoError(t, err)
	for _, name := range []string{"mint", "burn", "capture", "void", "reverseBurn", "reverseMint", "expire"} {
		seq := told.Seq[name]
		path := fmt.Sprintf("/receipts/%d", seq)
		code, header, raw := get(t, p, path+"/proof")
		require.Equal(t, http.StatusOK, code, name)
		assert.Equal(t, fmt.Sprintf(`attachment; filename="receipt-%d.tlog-proof"`, seq), header.Get("Content-Disposition"))
		file, err := tlog.ParseProofFile([]byte(raw))
		require.NoError(t, err, name)
		assert.Equal(t, seq, file.Index)
		_, err = file.Verify(policy, told.VKey)
		require.NoError(t, err, "%s verifies under the log's key and the policy", name)

		_, _, body := get(t, p, path)
		hash := tlog.LeafHash(file.Leaf)
		assert.True(t, strings.Contains(body, hex.EncodeToString(hash[:])), name)
		assert.Equal(t, raw, scanned(t, body), "the code of %s holds the proof file", name)
		for _, lang := range []string{"en", "es"} {
			said := read(t, p, path+"?lang="+lang)
			assert.Empty(t, bare.FindString(said), path)
			assert.Contains(t, said, phrase(lang, "receiptNoOne"))
			assert.Contains(t, said, fmt.Sprintf(phrase(lang, "final.entryCosigned"), 1, 2, number(told.Seq["dormant1"])))
		}
	}
	assert.Contains(t, read(t, p, fmt.Sprintf("/receipts/%d", told.Seq["mint"])), "Library")
}

func TestOnlyEntriesThatPeopleHoldHaveReceipts(t *testing.T) {
	t.Parallel()
	p, told, _ := town(t)
	for _, path := range []string{
		fmt.Sprintf("/receipts/%d", told.Seq["claim"]), fmt.Sprintf("/receipts/%d", told.Seq["activate"]), "/receipts/x", "/receipts/-1", "/receipts/007",
		fmt.Sprintf("/receipts/%d", told.Size()),
	} {
		for _, path := range []string{path, path + "/proof"} {
			code, _, _ := get(t, p, path)
			assert.Equal(t, http.StatusNotFound, code, path)
		}
	}
}

func TestProofThatIsTooLargeForACodeIsSaidAndLinked(t *testing.T) {
	t.Parallel()
	var lines []string
	for i := range 16 {
		lines = append(lines, fmt.Sprintf("balances %d %s", i, strings.Repeat("a", 200)))
	}
	p, told, _ := town(t, func(l *logtest.Town) { l.Extend(lines...) })
	path := fmt.Sprintf("/receipts/%d", told.Seq["mint"])
	_, _, body := get(t, p, path)
	assert.Contains(t, body, `id="tooLarge"`)
	assert.NotContains(t, body, `class="qr"`)
	assert.Contains(t, body, `href="`+path+`/proof"`)
	_, _, raw := get(t, p, path+"/proof")
	file, err := tlog.ParseProofFile([]byte(raw))
	require.NoError(t, err)
	_, err = file.Verify(nil, told.VKey)
	require.NoError(t, err)
}

func TestCodeOfALargeProofHoldsWhatFits(t *testing.T) {
	t.Parallel()
	orgs := []syntax.DID{}
	for i := range 12 {
		orgs = append(orgs, syntax.DID(fmt.Sprintf("did:plc:%024d", i)))
	}
	for holds, k := range map[string]int{"qrQuorum": 3, "qrCommitted": 12} {
		t.Run(holds, func(t *testing.T) {
			t.Parallel()
			p, told, _ := town(t, func(l *logtest.Town) { l.BindWitnesses(k, orgs...); l.Cosign(12) })
			policy, err := tlog.ParsePolicy([]byte(told.Policy()))
			require.NoError(t, err)
			path := fmt.Sprintf("/receipts/%d", told.Seq["mint"])
			_, _, raw := get(t, p, path+"/proof")
			require.Greater(t, len(raw), maxQR)
			_, _, body := get(t, p, path)
			assert.True(t, strings.Contains(html.UnescapeString(body), phrase("en", holds)))
			file, err := tlog.ParseProofFile([]byte(scanned(t, body)))
			require.NoError(t, err)
			_, err = file.Verify(nil, told.VKey)
			require.NoError(t, err)
			_, err = file.Verify(policy, told.VKey)
			assert.Equal(t, holds == "qrQuorum", err == nil, "%v", err)
			assert.Equal(t, map[string]int{"qrQuorum": 4, "qrCommitted": 1}[holds], strings.Count(string(file.Checkpoint), "— "))
		})
	}
}

// scanned reads a page's QR code back as a phone would: the drawing's modules, without mask and interleaving, as the text that they hold.
func scanned(t *testing.T, page string) string {
	t.Helper()
	var svg struct {
		ViewBox string `xml:"viewBox,attr"`
		Path    struct {
			D string `xml:"d,attr"`
		} `xml:"path"`
	}
	require.NoError(t, xml.Unmarshal([]byte(regexp.MustCompile(`(?s)<svg class="qr".*?</svg>`).FindString(page)), &svg))
	side, err := strconv.Atoi(strings.Fields(svg.ViewBox)[2])
	require.NoError(t, err)
	dark := map[[2]int]bool{}
	for _, m := range regexp.MustCompile(`M(\d+) (\d+)h(\d+)v1h-(\d+)z`).FindAllStringSubmatch(svg.Path.D, -1) {
		var n [4]int
		for i := range n {
			n[i], err = strconv.Atoi(m[i+1])
			require.NoError(t, err)
		}
		require.Equal(t, n[2], n[3])
		for i := range n[2] {
			dark[[2]int{n[0] - qrsvg.Quiet + i, n[1] - qrsvg.Quiet}] = true
		}
	}
	size := side - 2*qrsvg.Quiet
	plan, err := coding.NewPlan(coding.Version((size-17)/4), coding.L, 0)
	require.NoError(t, err)
	bits := make([]byte, plan.DataBytes+plan.CheckBytes)
	for y, row := range plan.Pixel {
		for x, pix := range row {
			black := pix&coding.Black != 0
			if role := pix.Role(); role != coding.Data && role != coding.Check {
				require.Equal(t, black, dark[[2]int{x, y}], "pattern at %d,%d", x, y)
			} else if black != dark[[2]int{x, y}] {
				bits[pix.Offset()/8] |= 1 << (7 - pix.Offset()%8)
			}
		}
	}
	read := func(at, n int) (v int) {
		for i := at; i < at+n; i++ {
			v = v<<1 | int(bits[i/8]>>(7-i%8)&1)
		}
		return v
	}
	require.Equal(t, 4, read(0, 4), "text as bytes")
	length := 8
	if plan.Version >= 10 {
		length = 16
	}
	out := make([]byte, read(4, length))
	for i := range out {
		out[i] = byte(read(4+length+8*i, 8))
	}
	return string(out)
}
