package web

import (
	"fmt"
	"html"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/appview/logtest"
)

// town is the pages of an index that has read the whole story of logtest.
func town(t *testing.T, more ...func(*logtest.Town)) (*Pages, *logtest.Town, *pgxpool.Pool) {
	t.Helper()
	p, pool := pages(t)
	told := logtest.Tell(logtest.New(t))
	for _, fn := range more {
		fn(told)
	}
	told.Follow(t, pool)
	_, err := pool.Exec(t.Context(), `insert into organization (did, rkey, cid, name, summary, function_types, cities) values
($1, 'self', 'c', 'Library', '', '{}', '{}'), ($2, 'self', 'c', 'Museum', '', '{}', '{}')`, logtest.Library.String(), logtest.Museum.String())
	require.NoError(t, err)
	return p, told, pool
}

func witnessed(l *logtest.Town) {
	l.BindWitnesses(1, logtest.Library, logtest.Museum)
	l.Cosign(1)
	l.Close()
}

// read gives what a reader sees of a page: its text without what stands in pre and code.
func read(t *testing.T, p *Pages, path string) string {
	t.Helper()
	code, _, body := get(t, p, path)
	require.Equal(t, http.StatusOK, code, path)
	body = regexp.MustCompile(`(?s)<(pre|code|head)[ >].*?</(pre|code|head)>`).ReplaceAllString(body, "")
	return html.UnescapeString(regexp.MustCompile(`(?s)<[^>]*>`).ReplaceAllString(body, ""))
}

// bare finds keys of phrases that have no words.
var bare = regexp.MustCompile(`\b(kind|says|refer|final|bound|release|unclaim|outcome|state|about|mode|response|refused|phase|paused|status|step|log|month|nav)\.[a-zA-Z-]+`)

func TestEveryEntryIsToldInWordsOfBothLanguages(t *testing.T) {
	t.Parallel()
	p, told, _ := town(t, witnessed, func(l *logtest.Town) { l.Rotate() })
	kinds := map[string]bool{}
	for seq := range told.Size() {
		for _, lang := range []string{"en", "es"} {
			path := fmt.Sprintf("/entry/%d?lang=%s", seq, lang)
			said := read(t, p, path)
			assert.Empty(t, bare.FindString(said), path)
			kinds[regexp.MustCompile(`\d+: (.*)\n`).FindStringSubmatch(said)[1]] = true
		}
	}
	assert.Len(t, kinds, 2*len(slices.DeleteFunc(keysOf(entryPhrases, "kind."), func(k string) bool { return phrase("en", k) == "" })), "each kind has words of its own")
}

func keysOf(m map[string]words, prefix string) []string {
	var out []string
	for k := range m {
		if strings.HasPrefix(k, prefix) {
			out = append(out, k)
		}
	}
	return out
}

func TestEntryPageSaysHowFinalItIs(t *testing.T) {
	t.Parallel()
	p, told, _ := town(t)
	said := read(t, p, fmt.Sprintf("/entry/%d", told.Seq["mint"]))
	assert.Contains(t, said, "Committed: in the signed checkpoint of "+number(told.Size())+" entries. Nobody cosigns this log yet")

	p, told, _ = town(t, witnessed)
	signed := told.Seq["dormant1"]
	assert.Contains(t, read(t, p, fmt.Sprintf("/entry/%d", told.Seq["mint"])), fmt.Sprintf("Cosigned by 1 of 2 witnesses at size %d.", signed))
	assert.Contains(t, read(t, p, fmt.Sprintf("/entry/%d", signed)), fmt.Sprintf("Not cosigned yet: the witnesses have signed up to size %d.", signed))
	assert.Contains(t, read(t, p, "/?lang=es"), "Cofirmado por 1 de 2 testigos")
	assert.Contains(t, read(t, p, "/"), "Witnesses that signed: Library.")
}

func TestReversedEntryIsMarkedOnBothSides(t *testing.T) {
	t.Parallel()
	p, told, _ := town(t)
	mint, reverse := told.Seq["corrected"], told.Seq["reverseMint"]
	_, _, body := get(t, p, fmt.Sprintf("/entry/%d", mint))
	assert.Contains(t, body, `id="reversed"`)
	assert.Contains(t, body, fmt.Sprintf(`href="/entry/%d"`, reverse))
	_, _, body = get(t, p, fmt.Sprintf("/entry/%d", reverse))
	assert.Contains(t, body, fmt.Sprintf(`<a href="/entry/%d">`, mint))
	_, _, body = get(t, p, fmt.Sprintf("/entry/%d", told.Seq["mint"]))
	assert.NotContains(t, body, `id="reversed"`)
	_, _, body = get(t, p, "/log/mint")
	assert.Equal(t, 1, strings.Count(body, `<span class="warn">`+phrase("en", "reversedMark")), "of two mints one is reversed")
	assert.Contains(t, body, "<td>−8</td>")
	_, _, body = get(t, p, fmt.Sprintf("/receipts/%d", mint))
	assert.Contains(t, body, phrase("en", "refer.reverse"))
}

func TestPausesAreShownWhereTheyBite(t *testing.T) {
	t.Parallel()
	p, told, _ := town(t, func(l *logtest.Town) { l.Hold() })
	for _, path := range []string{"/", "/epochs", "/nothing"} {
		_, _, body := get(t, p, path)
		assert.Contains(t, body, "A key was lost.", "a pause of the whole city stands on %s", path)
	}
	_, _, body := get(t, p, taskPath(logtest.Task))
	assert.Contains(t, body, `id="held"`)
	assert.Contains(t, body, fmt.Sprintf(`href="/entry/%d"`, told.Seq["pauseAgain"]))

	p, _, pool := town(t)
	_, _, body = get(t, p, taskPath(logtest.Task))
	assert.NotContains(t, body, `id="held"`, "it was resumed")
	_, err := pool.Exec(t.Context(), `insert into offering (did, rkey, cid, title, summary, epoch, book, credits_per_unit, unit_label, committed_month, currency)
values ($1, '3mcx5l2w5ss2o', $2, 'A ticket', '', 'e2027-01', 'std', 5, 'ticket', 40, 'USD')`, logtest.Museum.String(), logtest.CID)
	require.NoError(t, err)
	said := read(t, p, offeringPath(logtest.Offering)+"?lang=es")
	assert.Contains(t, said, "La organización puso en pausa esta oferta. Hasta el 29 de marzo de 2027")
	assert.Contains(t, said, "The hall is closed for repairs.")
	assert.Contains(t, said, number(logtest.Burned)+" créditos canjeados", "what was reversed is not among them")
	assert.Contains(t, read(t, p, "/"), "The hall is closed for repairs.")
}

func TestTaskKeepsStandingAfterItsIssuerDeletedIt(t *testing.T) {
	t.Parallel()
	p, _, pool := town(t)
	path := taskPath(logtest.Task)
	for _, sql := range []string{
		`insert into repo (did, rev, data, host) values ('did:plc:aaaaaaaaaaaaaaaaaaaaaaaa', '3mcx5l2w5ss2z', 'd', 'h')`,
	} {
		_, err := pool.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	for _, lang := range []string{"en", "es"} {
		said := read(t, p, path+"?lang="+lang)
		assert.Contains(t, said, phrase(lang, "taskDeleted"))
		assert.Contains(t, said, "64 "+phrase(lang, "creditsEach"))
		assert.Contains(t, said, "104 "+phrase(lang, "creditsIssued"), "less what was reversed")
	}
	_, err := pool.Exec(t.Context(), "update repo set rev = '3k'")
	require.NoError(t, err)
	assert.Contains(t, read(t, p, path), phrase("en", "taskNotKept"), "an index that has not read so far does not say so")
	code, _, _ := get(t, p, "/task/did:plc:aaaaaaaaaaaaaaaaaaaaaaaa/3never")
	assert.Equal(t, http.StatusNotFound, code, "a task that the ledger never accepted")
}

func TestEpochPageShowsMonthsBoundsAndIndicators(t *testing.T) {
	t.Parallel()
	p, told, pool := town(t, witnessed)
	path := epochPath(logtest.Book, logtest.Epoch)
	for _, lang := range []string{"en", "es"} {
		said := read(t, p, path+"?lang="+lang)
		assert.Empty(t, bare.FindString(said))
		assert.Contains(t, said, "384 ("+phrase(lang, "binds")+")", "both bounds, and which binds")
		assert.Contains(t, said, "448")
		assert.Contains(t, said, phrase(lang, "conflictNote"), "r is .15")
		assert.Contains(t, said, phrase(lang, "noReport"))
		assert.Contains(t, said, "14.4 %", "efficiency is 15 of 104")
	}
	_, _, body := get(t, p, path)
	for _, name := range []string{"dormant", "dormant1", "epochClose"} {
		assert.Contains(t, body, fmt.Sprintf(`href="/entry/%d"`, told.Seq[name]), name)
	}
	assert.Equal(t, 9, strings.Count(body, "<rect class="), "three bars for each month")
	logtest.Report(t, pool)
	said := read(t, p, path)
	assert.Contains(t, said, phrase("en", "warmUpNote"))
	assert.Contains(t, said, phrase("en", "tooFew"), "participants and cells of too few people")
	assert.Contains(t, said, "57.7 %", "14.42 of the expected 25")
	assert.Contains(t, said, "Month 2: "+phrase("en", "backlog")+" (6.100). What it points to: too much is issued. Agreed response: danger.")
	code, _, _ := get(t, p, epochPath("std", "never"))
	assert.Equal(t, http.StatusNotFound, code)
	assert.Contains(t, read(t, p, "/epochs"), "e2027-01 (std)")
}
