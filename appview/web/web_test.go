package web

import (
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/appview/index"
	"city-sync.org/citysync/appview/logtest"
	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/pg/pgtest"
)

const cityDID = "did:plc:cccccccccccccccccccccccc"

func pages(t *testing.T) (*Pages, *pgxpool.Pool) {
	t.Helper()
	pool := pgtest.Schema(t, index.Migrations())
	p, err := New(Config{Demonstration: true, Clock: clock.New(logtest.At), Log: slog.New(slog.DiscardHandler)}, query.New(pool, cityDID))
	require.NoError(t, err)
	return p, pool
}

func get(t *testing.T, p *Pages, path string, header ...string) (int, http.Header, string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	body, err := io.ReadAll(w.Result().Body)
	require.NoError(t, err)
	return w.Code, w.Header(), string(body)
}

func seed(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	_, err := pool.Exec(t.Context(), `insert into city (did, rkey, cid, name, tz, langs, ledger, log_origin, log_vkey, log_url)
values ($1, 'self', 'c', 'Berkeley', 'America/Los_Angeles', '{en,es}', 'did:plc:l', 'o', 'v', 'u')`, cityDID)
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), `insert into task (did, rkey, cid, title, summary, entry_uri, entry_cid, epoch, book, credits, slots, starts_at, ends_at)
values ('did:plc:parks', '3k', 'c', '<script>alert(1)</script>', 'Pick litter', 'at://x/y/z', 'c', 'e', 'b', 16, 120, now(), now())`)
	require.NoError(t, err)
}

func TestEveryPhraseOfTheTemplatesExistsInBothLanguages(t *testing.T) {
	t.Parallel()
	used := regexp.MustCompile(`\.T "([^"]+)"`)
	files, err := templates.ReadDir("templates")
	require.NoError(t, err)
	for _, f := range files {
		raw, err := templates.ReadFile("templates/" + f.Name())
		require.NoError(t, err)
		for _, m := range used.FindAllStringSubmatch(string(raw), -1) {
			p, ok := lookUp(m[1])
			assert.True(t, ok, "%s uses %q", f.Name(), m[1])
			assert.NotEmpty(t, p.en, m[1])
			assert.NotEmpty(t, p.es, m[1])
		}
	}
}

func TestPageSpeaksTheReadersLanguage(t *testing.T) {
	t.Parallel()
	p, pool := pages(t)
	seed(t, pool)
	for name, c := range map[string]struct{ path, header, value, want string }{
		"asked":           {"/?lang=es", "", "", "es"},
		"remembered":      {"/", "Cookie", "lang=es", "es"},
		"browser":         {"/", "Accept-Language", "es-MX,es;q=0.9,en;q=0.8", "es"},
		"unknown browser": {"/", "Accept-Language", "fr", "en"},
		"unknown wish":    {"/?lang=xx", "", "", "en"},
	} {
		code, header, body := get(t, p, c.path, c.header, c.value)
		assert.Equal(t, http.StatusOK, code, name)
		assert.Equal(t, c.want, header.Get("Content-Language"), name)
		assert.Contains(t, body, `<html lang="`+c.want+`">`, name)
		assert.Contains(t, body, phrase(c.want, "demonstration"), name)
	}
}

func TestStrangersWordsAreTextNeverMarkup(t *testing.T) {
	t.Parallel()
	p, pool := pages(t)
	seed(t, pool)
	_, header, body := get(t, p, "/?show=refused")
	assert.NotContains(t, body, "<script>")
	assert.Contains(t, body, "&lt;script&gt;")
	assert.Contains(t, header.Get("Content-Security-Policy"), "default-src 'none'")
}

func TestTaskThatTheLedgerDidNotReserveIsShownApartAsNotCounted(t *testing.T) {
	t.Parallel()
	p, pool := pages(t)
	seed(t, pool)
	code, _, body := get(t, p, "/task/did:plc:parks/3k")
	assert.Equal(t, http.StatusOK, code)
	assert.Contains(t, body, phrase("en", "notCounted"))
	_, _, body = get(t, p, "/")
	assert.NotContains(t, body, "/task/did:plc:parks/3k")
	_, _, body = get(t, p, "/?show=refused")
	assert.Contains(t, body, "/task/did:plc:parks/3k")
}

func TestNothingThereIsSaidPlainly(t *testing.T) {
	t.Parallel()
	p, pool := pages(t)
	code, _, body := get(t, p, "/")
	assert.Equal(t, http.StatusServiceUnavailable, code)
	assert.Contains(t, body, phrase("en", "notYet"))
	seed(t, pool)
	for _, path := range []string{"/nothing", "/task/did:plc:x/y", "/entry/7", "/entry/x", "/record/did:plc:x/a.b.c/d", "/?tasks=%00"} {
		code, _, body := get(t, p, path)
		assert.Equal(t, http.StatusNotFound, code, path)
		assert.Contains(t, body, phrase("en", "notFound"), path)
	}
}

func TestEachPageHasOneHeadingAMainAndALanguage(t *testing.T) {
	t.Parallel()
	p, pool := pages(t)
	seed(t, pool)
	for _, path := range []string{"/", "/task/did:plc:parks/3k", "/nothing"} {
		_, _, body := get(t, p, path)
		for _, tag := range []string{"<h1", "<main", "<title", `<a class="skip"`, `<html lang="`} {
			assert.Equal(t, 1, strings.Count(body, tag), "%s on %s", tag, path)
		}
	}
}

func TestNumbersAreGroupedAlikeInBothLanguages(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "0", number(int64(0)))
	assert.Equal(t, "999", number(int64(999)))
	assert.Equal(t, "20\u202f696", number(int64(20696)))
	assert.Equal(t, "−1\u202f000\u202f000", number(int64(-1000000)))
}

func TestDaysAreWrittenAsTheirReadersWriteThem(t *testing.T) {
	t.Parallel()
	at := time.Date(2027, 1, 4, 7, 30, 0, 0, time.UTC)
	tz, err := time.LoadLocation("America/Los_Angeles")
	require.NoError(t, err)
	assert.Equal(t, "3 January 2027", layout{Lang: "en", TZ: tz}.Day(at))
	assert.Equal(t, "3 de enero de 2027, 23:30", layout{Lang: "es", TZ: tz}.Minute(at))
}

// seedMint stores a mint entry of the seeded task that cites a verification, and what the index knows of that record.
func seedMint(t *testing.T, pool *pgxpool.Pool, rev string) {
	t.Helper()
	seed(t, pool)
	for _, sql := range []string{
		`insert into log_entry (seq, leaf, kind, book, epoch, day, org, amount, votes, task_uri)
		 values (7, '\xa0', 'mint', 'b', 'e', '2027-01-12', 'did:plc:parks', 16, 16, 'at://did:plc:parks/org.city-sync.work.task/3k')`,
		`insert into log_cause (seq, pos, uri, cid, rev) values (7, 0, 'at://did:plc:parks/org.city-sync.work.verification/3v', 'bafyv', '3kb')`,
		`insert into repo (did, rev, data, host) values ('did:plc:parks', '` + rev + `', 'd', 'h')`,
	} {
		_, err := pool.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
}

func TestRecordWithdrawnAfterItsMintIsShownAsWithdrawn(t *testing.T) {
	t.Parallel()
	verification := "/record/did:plc:parks/org.city-sync.work.verification/3v?cid=bafyv"
	const version = `insert into record_version (did, coll, rkey, cid, rev, cbor, seen) values ('did:plc:parks', 'org.city-sync.work.verification', '3v', 'bafyv', '3kb', '\xa0', now())`
	const record = `insert into record (did, coll, rkey, cid, rev, indexed) values ('did:plc:parks', 'org.city-sync.work.verification', '3v', `
	for name, c := range map[string]struct {
		rev    string
		known  []string
		phrase string
		step   bool
	}{
		"deleted while we looked":     {"3kd", []string{version, record + `null, '3kd', now())`}, "withdrawn", true},
		"deleted before we looked":    {"3kd", nil, "withdrawnUnseen", true},
		"not read that far":           {"3ka", nil, "notKept", false},
		"edited":                      {"3kd", []string{version, record + `'bafyw', '3kd', now())`}, "superseded", false},
		"account deleted":             {"3kd", []string{version, record + `null, '3kd', now())`, `update record_version set cbor = null`, `update repo set status = 'deleted'`}, "purged", true},
		"account deactivated":         {"3kd", []string{version, record + `'bafyv', '3kb', now())`, `update repo set status = 'deactivated'`}, "notKept", false},
		"still there":                 {"3kd", []string{version, record + `'bafyv', '3kb', now())`}, "", false},
		"deleted with unknown commit": {"3kd", []string{`update log_cause set rev = ''`}, "notKept", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, pool := pages(t)
			seedMint(t, pool, c.rev)
			for _, sql := range c.known {
				_, err := pool.Exec(t.Context(), sql)
				require.NoError(t, err)
			}
			for _, lang := range []string{"en", "es"} {
				code, _, body := get(t, p, verification+"&lang="+lang)
				require.Equal(t, http.StatusOK, code)
				if c.phrase == "" {
					assert.NotContains(t, body, `id="standing"`)
				} else {
					assert.Contains(t, html.UnescapeString(body), phrase(lang, c.phrase))
				}
				assert.Contains(t, body, `href="/entry/7"`, "the mint that rests on it")
				_, _, body = get(t, p, "/task/did:plc:parks/3k?lang="+lang)
				assert.Contains(t, body, `href="/record/did:plc:parks/org.city-sync.work.verification/3v?cid=bafyv"`, "the chain keeps the step")
				assert.Equal(t, c.step, strings.Contains(body, phrase(lang, "withdrawnStep")), "in the chain, %s", lang)
			}
		})
	}
	p, pool := pages(t)
	seedMint(t, pool, "3kd")
	code, _, _ := get(t, p, strings.Replace(verification, "bafyv", "bafyother", 1))
	assert.Equal(t, http.StatusNotFound, code, "a version that nobody saw or cited")
}

func TestAddressWithBytesThatNoTextHasIsNotFound(t *testing.T) {
	t.Parallel()
	p, pool := pages(t)
	seed(t, pool)
	for _, path := range []string{"/task/did:plc:x/%00", "/task/%ff/y", "/record/did:plc:x/a.b.c/d?cid=%00", "/?tasks=MDAwMS0wMS0wMVQwMDowMDowMFoA_w"} {
		code, _, _ := get(t, p, path)
		assert.Contains(t, []int{http.StatusNotFound, http.StatusOK}, code, path)
	}
}

func TestEveryFigureOpensToItsEntriesAndEveryKindOfEntryHasWords(t *testing.T) {
	t.Parallel()
	p, pool := pages(t)
	seed(t, pool)
	_, err := pool.Exec(t.Context(), `insert into log_entry (seq, leaf, kind, book, epoch, day, org, amount, votes)
select n, '\xa0', 'mint', 'b', 'e', '2027-01-12', 'did:plc:parks', 16, 16 from generate_series(1, 101) n`)
	require.NoError(t, err)
	for _, kind := range logKinds {
		code, _, body := get(t, p, "/log/"+kind+"?lang=es")
		assert.Equal(t, http.StatusOK, code, kind)
		assert.NotContains(t, body, "log."+kind)
	}
	_, _, body := get(t, p, "/log/mint")
	assert.Contains(t, body, `href="/entry/101"`)
	next := regexp.MustCompile(`/log/mint\?from=[A-Za-z0-9_-]+`).FindString(body)
	require.NotEmpty(t, next)
	_, _, body = get(t, p, next)
	assert.Contains(t, body, `href="/entry/1"`)
	code, _, _ := get(t, p, "/log/activate")
	assert.Equal(t, http.StatusNotFound, code)
}
