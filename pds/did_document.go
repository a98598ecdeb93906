package pds

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"github.com/bluesky-social/indigo/atproto/identity"
	"github.com/bluesky-social/indigo/atproto/syntax"
)

// Names of an account's own entries in its DID document.
const (
	keyName     = "atproto"
	serviceName = "atproto_pds"
	serviceType = "AtprotoPersonalDataServer"
)

// webDID is the did:web of an address: its host, and its port where there is one.
func webDID(u *url.URL) syntax.DID {
	return syntax.DID("did:web:" + strings.ReplaceAll(strings.ToLower(u.Host), ":", "%3A"))
}

// didJSON serves this server's own DID document, by which others check the audience of tokens and find us. It is served on our own host and where our
// DID is that host's only: a did:plc has its document in the directory, and a second one here could only differ from it.
func (s *Server) didJSON(w http.ResponseWriter, r *http.Request) {
	if s.cfg.ServiceDID.Method() != "web" || !strings.EqualFold(r.Host, s.netloc) {
		http.Error(w, "no DID document is here", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_ = json.NewEncoder(w).Encode(struct { // the reader has gone if this errs
		Context []string              `json:"@context"`
		ID      syntax.DID            `json:"id"`
		Service []identity.DocService `json:"service"`
	}{
		Context: []string{"https://www.w3.org/ns/did/v1"}, ID: s.cfg.ServiceDID,
		Service: []identity.DocService{{ID: "#" + serviceName, Type: serviceType, ServiceEndpoint: s.cfg.PublicURL}},
	})
}
