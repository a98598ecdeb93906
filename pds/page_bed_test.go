package pds

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"

	"github.com/stretchr/testify/require"
)

// visitor is somebody with a browser that follows no redirect by itself.
type visitor struct {
	*bed
	http *http.Client
}

// shown is a page as it came.
type shown struct {
	Status int
	Header http.Header
	HTML   string
}

// To is where the answer leads, with the server's own address left out.
func (p shown) To() string { return p.Header.Get("Location") }

func (b *bed) visitor() *visitor {
	b.t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(b.t, err)
	return &visitor{bed: b, http: &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

func (v *visitor) send(req *http.Request) shown {
	v.t.Helper()
	res, err := v.http.Do(req)
	require.NoError(v.t, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	require.NoError(v.t, err)
	return shown{Status: res.StatusCode, Header: res.Header, HTML: string(raw)}
}

func (v *visitor) open(path string) shown {
	v.t.Helper()
	req, err := http.NewRequest(http.MethodGet, v.url+path, nil)
	require.NoError(v.t, err)
	return v.send(req)
}

// fill sends a form as a browser does from a page of ours. Fields are name, value pairs.
func (v *visitor) fill(path string, fields ...string) shown {
	v.t.Helper()
	return v.fillFrom("same-origin", path, fields...)
}

func (v *visitor) fillFrom(site, path string, fields ...string) shown {
	v.t.Helper()
	form := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		form.Add(fields[i], fields[i+1])
	}
	req, err := http.NewRequest(http.MethodPost, v.url+path, strings.NewReader(form.Encode()))
	require.NoError(v.t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", site)
	req.Header.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
	return v.send(req)
}

// visitor is somebody in whose browser the account is signed in.
func (u *user) visitor() *visitor {
	u.t.Helper()
	v := u.bed.visitor()
	v.signIn(u)
	return v
}

func (v *visitor) signIn(u *user) {
	v.t.Helper()
	p := v.fill("/account/sign-in", "identifier", u.Handle, "password", password)
	require.Equal(v.t, http.StatusSeeOther, p.Status, "%s", p.HTML)
	require.Equal(v.t, u.path(), p.To())
}

func (u *user) path() string { return "/account/" + u.DID.String() }

var said = regexp.MustCompile(`(?s)id="(?:wrong|done)"[^>]*>(.*?)</p>`)

// says is what the page tells about the form before it.
func (p shown) says() string {
	m := said.FindStringSubmatch(p.HTML)
	if m == nil {
		return ""
	}
	return m[1]
}
