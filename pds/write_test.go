package pds

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/repo"
)

func TestCreatedRecordIsReadBack(t *testing.T) {
	t.Parallel()
	u := newBed(t).account("user")
	a := u.ok(u.create(note, "", m{"text": "hello"}))
	_, rev := u.head()
	assert.Equal(t, rev, a.str("commit", "rev"))
	assert.Equal(t, "unknown", a.str("validationStatus"))
	rkey := a.str("uri")[strings.LastIndex(a.str("uri"), "/")+1:]

	for _, who := range []string{u.DID.String(), u.Handle} {
		got := u.ok(u.get("", "com.atproto.repo.getRecord", "repo", who, "collection", note, "rkey", rkey))
		assert.Equal(t, a.str("uri"), got.str("uri"))
		assert.Equal(t, a.str("cid"), got.str("cid"))
		assert.Equal(t, m{"$type": note, "text": "hello"}, got.JSON["value"], "$type is added")
	}
	u.ok(u.get("", "com.atproto.repo.getRecord", "repo", u.Handle, "collection", note, "rkey", rkey, "cid", a.str("cid")))
	assert.Equal(t, "RecordNotFound", u.get("", "com.atproto.repo.getRecord", "repo", u.Handle, "collection", note, "rkey", rkey, "cid", someCID).name())
	assert.Equal(t, "RecordNotFound", u.get("", "com.atproto.repo.getRecord", "repo", u.Handle, "collection", note, "rkey", "nothing").name())
	assert.Equal(t, "RepoNotFound", u.get("", "com.atproto.repo.getRecord", "repo", "nobody.test", "collection", note, "rkey", rkey).name())
}

func TestValidation(t *testing.T) {
	t.Parallel()
	u := newBed(t).account("user")
	rkey, good := claim("a")
	_, bad := claim("b")
	delete(bad, "shiftId")
	const ours = "org.city-sync.work.claim"
	create := func(collection, rkey string, record m, validate any) answer {
		in := m{"repo": u.DID, "collection": collection, "rkey": rkey, "record": record}
		if validate != nil {
			in["validate"] = validate
		}
		return u.post(u.Access, "com.atproto.repo.createRecord", in)
	}
	assert.Equal(t, "valid", u.ok(create(ours, rkey, good, nil)).str("validationStatus"))
	assert.Equal(t, "InvalidRecord", create(ours, "x", bad, nil).name(), "unset refuses a malformed civic record")
	assert.Equal(t, "InvalidRecord", create(ours, "x", bad, true).name())
	free := u.ok(create(ours, "x", bad, false))
	assert.NotContains(t, free.JSON, "validationStatus")
	assert.Equal(t, "unknown", u.ok(create(note, "y", m{}, nil)).str("validationStatus"))
	assert.Equal(t, "InvalidRequest", create(note, "z", m{}, true).name())
}

func TestRecordsThatAreRefused(t *testing.T) {
	t.Parallel()
	u := newBed(t).account("user")
	commit, _ := u.head()
	for what, a := range map[string]answer{
		"float":             u.create(note, "a", m{"n": 1.5}),
		"another $type":     u.create(note, "a", m{"$type": "com.example.other"}),
		"array":             u.create(note, "a", []int{1}),
		"null":              u.create(note, "a", nil),
		"bad rkey":          u.create(note, "a/b", m{}),
		"dots as rkey":      u.create(note, "..", m{}),
		"bad collection":    u.create("note", "a", m{}),
		"legacy blob":       u.create(note, "a", m{"b": m{"cid": someCID, "mimeType": "image/png"}}),
		"blob not uploaded": u.create(note, "a", m{"b": m{"$type": "blob", "ref": m{"$link": "bafkreiefh2cmpz4vcbipxkbdgsvxdqbsidnqk3v6eo7kaop5pcbmj2lpfy"}, "mimeType": "image/png", "size": 3}}),
		"bad swapCommit":    u.create(note, "a", m{}, "swapCommit", "x"),
	} {
		assert.Equal(t, http.StatusBadRequest, a.Status, "%s: %s", what, a.Raw)
	}
	big := u.create(note, "a", m{"text": strings.Repeat("x", 1_000_000)})
	assert.Equal(t, http.StatusRequestEntityTooLarge, big.Status)
	after, _ := u.head()
	assert.Equal(t, commit, after, "a refusal makes no commit")
}

func TestWritesNeedTheOwnRepository(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u, other := b.account("user"), b.account("other")
	in := m{"repo": other.DID, "collection": note, "record": m{}}
	assert.Equal(t, http.StatusForbidden, b.post(u.Access, "com.atproto.repo.createRecord", in).Status)
	assert.Equal(t, "AuthMissing", b.post("", "com.atproto.repo.createRecord", in).name())
	in["repo"] = "USER.test"
	b.ok(b.post(u.Access, "com.atproto.repo.createRecord", in))
	_, err := b.pool.Exec(t.Context(), `update account set status = 'deactivated' where did = $1`, u.DID)
	require.NoError(t, err)
	assert.Equal(t, "RepoDeactivated", b.post(u.Access, "com.atproto.repo.createRecord", in).name())
}

func TestCreateOverAnExistingRecordIsAConflict(t *testing.T) {
	t.Parallel()
	u := newBed(t).account("user")
	u.ok(u.create(note, "a", m{}))
	a := u.create(note, "a", m{"n": 1})
	assert.Equal(t, http.StatusConflict, a.Status)
	assert.Equal(t, "RecordAlreadyExists", a.name())
}

func TestPutOfTheSameValueMakesNoCommit(t *testing.T) {
	t.Parallel()
	u := newBed(t).account("user")
	first := u.ok(u.put(note, "a", m{"n": 1}, nil))
	commit, _ := u.head()
	same := u.ok(u.put(note, "a", m{"n": 1}, nil))
	assert.Equal(t, first.str("cid"), same.str("cid"))
	assert.NotContains(t, same.JSON, "commit")
	after, _ := u.head()
	assert.Equal(t, commit, after)
	changed := u.ok(u.put(note, "a", m{"n": 2}, nil))
	assert.NotEqual(t, first.str("cid"), changed.str("cid"))
	assert.NotEmpty(t, changed.str("commit", "cid"))
}

func TestDeleteOfNothingMakesNoCommit(t *testing.T) {
	t.Parallel()
	u := newBed(t).account("user")
	commit, _ := u.head()
	assert.NotContains(t, u.ok(u.remove(note, "nothing", nil)).JSON, "commit")
	after, _ := u.head()
	assert.Equal(t, commit, after)
	u.ok(u.create(note, "a", m{}))
	assert.NotEmpty(t, u.ok(u.remove(note, "a", nil)).str("commit", "cid"))
	assert.Equal(t, "RecordNotFound", u.get("", "com.atproto.repo.getRecord", "repo", u.Handle, "collection", note, "rkey", "a").name())
}

func TestSwapConditions(t *testing.T) {
	t.Parallel()
	u := newBed(t).account("user")
	cid1 := u.ok(u.put(note, "a", m{"n": 1}, m{"swapRecord": nil})).str("cid")
	commit, _ := u.head()
	for what, a := range map[string]answer{
		"put, must not be there":    u.put(note, "a", m{"n": 2}, m{"swapRecord": nil}),
		"put, other record":         u.put(note, "a", m{"n": 2}, m{"swapRecord": someCID}),
		"put where nothing is":      u.put(note, "b", m{"n": 2}, m{"swapRecord": cid1}),
		"put at another commit":     u.put(note, "a", m{"n": 2}, m{"swapCommit": someCID}),
		"delete, other record":      u.remove(note, "a", m{"swapRecord": someCID}),
		"delete at another commit":  u.remove(note, "a", m{"swapCommit": someCID}),
		"create at another commit":  u.create(note, "b", m{}, "swapCommit", someCID),
		"delete where nothing is":   u.remove(note, "b", m{"swapRecord": cid1}),
		"same value, other record":  u.put(note, "a", m{"n": 1}, m{"swapRecord": someCID}),
		"no change, another commit": u.put(note, "a", m{"n": 1}, m{"swapCommit": someCID}),
	} {
		assert.Equal(t, http.StatusBadRequest, a.Status, what)
		assert.Equal(t, "InvalidSwap", a.name(), what)
	}
	u.ok(u.put(note, "a", m{"n": 2}, m{"swapRecord": cid1, "swapCommit": commit}))
}

func TestApplyWritesIsOneCommitOrNone(t *testing.T) {
	t.Parallel()
	u := newBed(t).account("user")
	const create, update, remove = "com.atproto.repo.applyWrites#create", "com.atproto.repo.applyWrites#update", "com.atproto.repo.applyWrites#delete"
	u.ok(u.apply(
		m{"$type": create, "collection": note, "rkey": "a", "value": m{"n": 1}},
		m{"$type": create, "collection": note, "rkey": "b", "value": m{"n": 1}},
	))
	before, _ := u.head()
	a := u.ok(u.apply(
		m{"$type": update, "collection": note, "rkey": "a", "value": m{"n": 2}},
		m{"$type": remove, "collection": note, "rkey": "b"},
		m{"$type": create, "collection": note, "value": m{"n": 3}},
	))
	results := a.JSON["results"].([]any)
	require.Len(t, results, 3)
	assert.Equal(t, "com.atproto.repo.applyWrites#updateResult", results[0].(m)["$type"])
	assert.Equal(t, m{"$type": "com.atproto.repo.applyWrites#deleteResult"}, results[1])
	assert.NotEmpty(t, results[2].(m)["uri"])
	head, rev := u.head()
	assert.NotEqual(t, before, head)
	assert.Equal(t, rev, a.str("commit", "rev"))

	fine := m{"$type": create, "collection": note, "rkey": "c", "value": m{}}
	for what, row := range map[string]struct {
		write  m
		status int
		name   string
	}{
		"update of nothing": {m{"$type": update, "collection": note, "rkey": "x", "value": m{}}, 400, "RecordNotFound"},
		"delete of nothing": {m{"$type": remove, "collection": note, "rkey": "b"}, 400, "RecordNotFound"},
		"create over":       {m{"$type": create, "collection": note, "rkey": "a", "value": m{}}, 409, "RecordAlreadyExists"},
		"twice":             {fine, 400, "InvalidRequest"},
		"no write":          {m{"$type": "x"}, 400, "InvalidRequest"},
		"bad value":         {m{"$type": create, "collection": note, "value": m{"n": 0.5}}, 400, "InvalidRecord"},
	} {
		a := u.apply(fine, row.write)
		assert.Equal(t, row.status, a.Status, "%s: %s", what, a.Raw)
		assert.Equal(t, row.name, a.name(), what)
	}
	after, _ := u.head()
	assert.Equal(t, head, after)
	assert.Equal(t, "InvalidRequest", u.apply().name())
	assert.Equal(t, "InvalidRequest", u.apply(make([]m, 201)...).name())
}

func TestApplyWritesTakesTwoHundred(t *testing.T) {
	t.Parallel()
	u := newBed(t).account("user")
	var writes []m
	for range 200 {
		writes = append(writes, m{"$type": "com.atproto.repo.applyWrites#create", "collection": note, "value": m{"text": "x"}})
	}
	u.ok(u.apply(writes...))
	u.assertWhole()
}

func TestListRecordsPagesBothWays(t *testing.T) {
	t.Parallel()
	u := newBed(t).account("user")
	for _, k := range []string{"a", "b", "c", "d", "e"} {
		u.ok(u.create(note, k, m{"k": k}))
	}
	u.ok(u.create("com.example.other", "a", m{}))
	pages := func(params ...string) (keys string) {
		cursor := ""
		for range 4 {
			a := u.ok(u.get("", "com.atproto.repo.listRecords", append(params, "repo", u.Handle, "collection", note, "limit", "2", "cursor", cursor)...))
			for _, r := range a.JSON["records"].([]any) {
				keys += r.(m)["value"].(m)["k"].(string)
			}
			if cursor = a.str("cursor"); cursor == "" {
				return keys
			}
		}
		return keys
	}
	assert.Equal(t, "edcba", pages())
	assert.Equal(t, "abcde", pages("reverse", "true"))
	empty := u.ok(u.get("", "com.atproto.repo.listRecords", "repo", u.Handle, "collection", "com.example.none"))
	assert.JSONEq(t, `{"records":[]}`, string(empty.Raw))
	assert.Equal(t, "InvalidRequest", u.get("", "com.atproto.repo.listRecords", "repo", u.Handle, "collection", note, "limit", "101").name())
	d := u.ok(u.get("", "com.atproto.repo.describeRepo", "repo", u.Handle))
	assert.Equal(t, []any{note, "com.example.other"}, d.JSON["collections"])
	assert.Equal(t, true, d.JSON["handleIsCorrect"])
	assert.Equal(t, u.DID.String(), d.JSON["didDoc"].(m)["id"])
}

// assertWhole checks P3: the export verifies, holds what table record holds, and every
// stored block is part of it.
func (u *user) assertWhole() *repo.Full {
	u.t.Helper()
	car := u.ok(u.get("", "com.atproto.sync.getRepo", "did", u.DID.String()))
	full, err := repo.VerifyRepo(u.t.Context(), bytes.NewReader(car.Raw), u.DID, u.key(), repo.Limits{})
	require.NoError(u.t, err)
	there := map[string]string{}
	rows, err := u.pool.Query(u.t.Context(), `select collection || '/' || rkey, cid from record where did = $1`, u.DID)
	require.NoError(u.t, err)
	for rows.Next() {
		var path string
		var raw []byte
		require.NoError(u.t, rows.Scan(&path, &raw))
		c, err := cid.Cast(raw)
		require.NoError(u.t, err)
		there[path] = c.String()
	}
	require.NoError(u.t, rows.Err())
	reached := map[cid.Cid]bool{}
	parsed, err := repo.ReadCAR(bytes.NewReader(car.Raw), repo.Limits{})
	require.NoError(u.t, err)
	reached[parsed.Root] = true
	n := 0
	for r := range full.Records() {
		assert.Equal(u.t, there[r.Path], r.CID.String(), r.Path)
		reached[r.CID] = true
		n++
	}
	assert.Len(u.t, there, n)
	require.NoError(u.t, repo.Nodes(u.t.Context(), parsed.Blocks, full.Data, func(c cid.Cid) error {
		reached[c] = true
		return nil
	}))
	for c := range parsed.Blocks {
		assert.True(u.t, reached[c], "block %s is stored but not reached", c)
	}
	return full
}

func TestTableBlockHoldsExactlyWhatTheHeadReaches(t *testing.T) {
	t.Parallel()
	u := newBed(t).account("user")
	for i := range 40 {
		u.ok(u.put(note, string(rune('a'+i%23)), m{"n": i % 3}, nil)) // equal values under many keys
	}
	for i := range 15 {
		u.ok(u.remove(note, string(rune('a'+i)), nil))
	}
	u.ok(u.put(note, "w", m{"n": 99}, nil))
	assert.Equal(t, 8, u.assertWhole().Len())
	for i := range 23 {
		u.ok(u.remove(note, string(rune('a'+i)), nil))
	}
	assert.Zero(t, u.assertWhole().Len())
	assert.Equal(t, 2, u.count(`select count(*) from block where did = $1`, u.DID), "commit and empty root")
}

func TestLargeExportGoesThroughAFileAndLeavesNone(t *testing.T) {
	t.Parallel()
	u := newBed(t).account("user")
	for i := range 3 {
		u.ok(u.create(note, "", m{"i": i, "text": strings.Repeat("x", 900_000)}))
	}
	assert.Equal(t, 3, u.assertWhole().Len())
	left, err := os.ReadDir(filepath.Join(u.deps.BlobDir, tmpDir))
	require.NoError(t, err)
	assert.Empty(t, left)
}

func TestExportSinceHoldsWhatCameAfter(t *testing.T) {
	t.Parallel()
	u := newBed(t).account("user")
	u.ok(u.create(note, "a", m{"n": 1}))
	_, since := u.head()
	created := u.ok(u.create(note, "b", m{"n": 2}))
	old := u.ok(u.get("", "com.atproto.repo.getRecord", "repo", u.Handle, "collection", note, "rkey", "a"))
	car, err := repo.ReadCAR(bytes.NewReader(u.ok(u.get("", "com.atproto.sync.getRepo", "did", u.DID.String(), "since", since)).Raw), repo.Limits{})
	require.NoError(t, err)
	has := func(raw string) bool {
		c, err := cid.Decode(raw)
		require.NoError(t, err)
		_, ok := car.Blocks[c]
		return ok
	}
	assert.True(t, has(created.str("cid")))
	assert.True(t, has(created.str("commit", "cid")))
	assert.False(t, has(old.str("cid")))
	assert.Equal(t, "InvalidRequest", u.get("", "com.atproto.sync.getRepo", "did", u.DID.String(), "since", "x").name())
}

func TestRecordProofVerifiesForPresenceAndAbsence(t *testing.T) {
	t.Parallel()
	u := newBed(t).account("user")
	for _, k := range []string{"a", "b", "c", "d"} {
		u.ok(u.create(note, k, m{"k": k}))
	}
	proof := func(rkey string) *repo.Proved {
		a := u.ok(u.get("", "com.atproto.sync.getRecord", "did", u.DID.String(), "collection", note, "rkey", rkey))
		assert.Equal(t, carType, a.Header.Get("Content-Type"))
		p, err := repo.VerifyProof(a.Raw, u.DID, u.key(), note+"/"+rkey)
		require.NoError(t, err)
		return p
	}
	assert.NotEmpty(t, proof("c").Record)
	assert.Nil(t, proof("cc").Record)
}

func TestReposAreListedWithTheirHeads(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	heads := map[string]string{}
	for _, n := range []string{"one", "two", "three"} {
		u := b.account(n)
		heads[u.DID.String()], _ = u.head()
	}
	got, cursor := map[string]string{}, ""
	for range 3 {
		a := b.ok(b.get("", "com.atproto.sync.listRepos", "limit", "2", "cursor", cursor))
		for _, r := range a.JSON["repos"].([]any) {
			v := r.(m)
			got[v["did"].(string)] = v["head"].(string)
			assert.Equal(t, true, v["active"])
		}
		if cursor = a.str("cursor"); cursor == "" {
			break
		}
	}
	assert.Equal(t, heads, got)
	for did := range heads {
		s := b.ok(b.get("", "com.atproto.sync.getRepoStatus", "did", did))
		assert.Equal(t, true, s.JSON["active"])
		assert.NotEmpty(t, s.str("rev"))
	}
	for _, nsid := range []string{"getRepoStatus", "getLatestCommit", "getRepo"} {
		assert.Equal(t, "RepoNotFound", b.get("", "com.atproto.sync."+nsid, "did", "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa").name(), nsid)
		assert.Equal(t, "InvalidRequest", b.get("", "com.atproto.sync."+nsid, "did", "user.test").name(), nsid)
	}
}

func TestInactiveRepositoryIsNotShown(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	u.ok(u.create(note, "a", m{}))
	for status, name := range map[string]string{"deactivated": "RepoDeactivated", "takendown": "RepoTakendown", "suspended": "RepoSuspended"} {
		_, err := b.pool.Exec(t.Context(), `update account set status = $2 where did = $1`, u.DID, status)
		require.NoError(t, err)
		did := u.DID.String()
		assert.Equal(t, name, b.get("", "com.atproto.repo.getRecord", "repo", did, "collection", note, "rkey", "a").name())
		assert.Equal(t, name, b.get("", "com.atproto.sync.getRepo", "did", did).name())
		s := b.ok(b.get("", "com.atproto.sync.getRepoStatus", "did", did))
		assert.Equal(t, false, s.JSON["active"])
		assert.Equal(t, status, s.str("status"))
	}
}

func TestDecideLeavesOutWhatChangesNothing(t *testing.T) {
	t.Parallel()
	data := []byte("x")
	rec := &record{CBOR: data, CID: repo.CIDForCBOR(data)}
	there := map[string]cid.Cid{"c/same": rec.CID, "c/other": repo.CIDForCBOR([]byte("y"))}
	writes, err := decide(there, []change{
		{Intent: toPut, Collection: "c", RKey: "same", Record: rec},
		{Intent: toPut, Collection: "c", RKey: "other", Record: rec},
		{Intent: toPut, Collection: "c", RKey: "new", Record: rec},
		{Intent: toDrop, Collection: "c", RKey: "nothing"},
	})
	require.NoError(t, err)
	got, err := json.Marshal(writes)
	require.NoError(t, err)
	want, err := json.Marshal([]repo.Write{
		{Action: repo.Update, Collection: "c", RKey: "other", Record: data},
		{Action: repo.Create, Collection: "c", RKey: "new", Record: data},
	})
	require.NoError(t, err)
	assert.JSONEq(t, string(want), string(got))
}
