package pds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	indigo "github.com/bluesky-social/indigo/atproto/identity"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"city-sync.org/citysync/internal/clock"
	"city-sync.org/citysync/internal/identity"
)

// Config is what an operator may set. Zero values of the optional fields mean the
// default named beside them.
type Config struct {
	// PublicURL is this server's address as others reach it, without a final slash. It
	// is written into the DID document of every account.
	PublicURL string
	// ServiceDID names this server: the audience of its tokens and the DID of describeServer.
	ServiceDID syntax.DID
	// HandleDomains are the domains under which accounts get one label, such as ".test".
	HandleDomains []string
	// AllowLoopback is for development: the server may stand on this machine without TLS.
	// A server without it is reached by https, and one that is reached by https must not have it.
	AllowLoopback bool
	// RecoveryKey is a did:key that every new account's DID has above this server's rotation key; optional. An
	// account's own recovery key stands above both.
	RecoveryKey string
	MaxImport   int64 // bytes of a repository that is brought here; 1 GiB
	// InviteRequired closes registration to those who hold an invite code.
	InviteRequired bool

	Version        string        // answered by _health; "dev"
	MaxBlob        int64         // bytes; 5 MB
	BlobQuota      int64         // bytes of all blobs of one account, where none is set for it; 1 GiB
	BlobGrace      time.Duration // how long an unreferenced blob is kept; 24 h
	EventWindow    time.Duration // how long events can be replayed; 72 h
	SignupWindow   time.Duration // how long a half-made account can be taken up again; 24 h
	AccessTTL      time.Duration // 2 h
	RefreshTTL     time.Duration // 90 days
	RefreshGrace   time.Duration // how long the previous refresh token may be retried; 2 min
	Argon2         Argon2        // 19 MiB, 2 passes, 1 thread
	TrustedProxies int           // proxies in front whose X-Forwarded-For is believed; 0
	Relays         []string      // addresses of the relays that are asked to read this host

	// ReservedNames are labels that nobody may register; nil: the list in reserved.txt.
	ReservedNames []string
	// PrivacyURL, TermsURL and ContactEmail tell people who runs this server, and how. They are left out where empty.
	PrivacyURL, TermsURL, ContactEmail string

	// Limits are rates in place of the default ones, by name; see defaultLimits.
	Limits Limits
	// LimitFactor multiplies every limit, for a city whose people all come from one machine; 1.
	LimitFactor int
	// LimitSpared are addresses that no limit by address holds for, such as the city's own services.
	LimitSpared []netip.Prefix
	// TrustedClients are the ids of the OAuth clients whose name and logo are shown as their own.
	TrustedClients []string
	// TransitionScopes gives apps the scopes from before permissions were granular, which allow nearly everything.
	TransitionScopes bool

	// BlobHost is a second name of this server under which nothing but blobs is served; none when empty.
	BlobHost string
	// AppView is the DID#service that gets the methods which are not served here when the client names none. Without it they are refused.
	AppView string
	// AppViewURL is where it is; without it, its DID document says so.
	AppViewURL string
	// ServiceAudience makes the tokens of calls to other services name DID#service as their audience, where services still expect the DID alone.
	ServiceAudience bool
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	if c.Version == "" {
		c.Version = "dev"
	}
	if c.MaxBlob == 0 {
		c.MaxBlob = 5_000_000
	}
	if c.MaxImport == 0 {
		c.MaxImport = 1 << 30
	}
	if c.BlobQuota == 0 {
		c.BlobQuota = 1 << 30
	}
	def(&c.BlobGrace, 24*time.Hour)
	def(&c.EventWindow, 72*time.Hour)
	def(&c.SignupWindow, 24*time.Hour)
	def(&c.AccessTTL, 2*time.Hour)
	def(&c.RefreshTTL, 90*24*time.Hour)
	def(&c.RefreshGrace, 2*time.Minute)
	if c.Argon2 == (Argon2{}) {
		c.Argon2 = Argon2{MemoryKiB: 19 << 10, Passes: 2, Threads: 1}
	}
	if c.ReservedNames == nil {
		c.ReservedNames = DefaultReservedNames()
	}
	if c.LimitFactor == 0 {
		c.LimitFactor = 1
	}
	return c
}

// maxLimitFactor is as good as no limit.
const maxLimitFactor = 1_000_000

// Validate names the first setting that cannot work.
func (c Config) Validate() error {
	c = c.withDefaults()
	u, err := url.Parse(c.PublicURL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("public URL %q must be http(s)://HOST[:PORT] without a final slash", c.PublicURL)
	}
	if _, err := syntax.ParseDID(c.ServiceDID.String()); err != nil {
		return fmt.Errorf("service DID %q: %w", c.ServiceDID, err)
	}
	if err := c.validateOrigin(u); err != nil {
		return err
	}
	if len(c.HandleDomains) == 0 {
		return errors.New("at least one handle domain is needed")
	}
	for _, d := range c.HandleDomains {
		if _, err := syntax.ParseHandle("x" + d); err != nil || !strings.HasPrefix(d, ".") || d != strings.ToLower(d) {
			return fmt.Errorf("handle domain %q must be lower case and begin with a dot", d)
		}
	}
	if err := c.validateAppView(); err != nil {
		return err
	}
	if c.RecoveryKey != "" {
		if _, err := atcrypto.ParsePublicDIDKey(c.RecoveryKey); err != nil {
			return fmt.Errorf("recovery key %q is not a did:key of P-256 or K-256", c.RecoveryKey)
		}
	}
	if c.MaxImport < 1 {
		return fmt.Errorf("import limit %d is no size", c.MaxImport)
	}
	if own, err := url.Parse(c.PublicURL); c.BlobHost != "" && (err != nil || c.BlobHost != hostOnly(c.BlobHost) || strings.EqualFold(c.BlobHost, own.Hostname())) {
		return fmt.Errorf("blob host %q must be a host name other than this server's own", c.BlobHost)
	}
	if c.BlobQuota < 1 {
		return fmt.Errorf("blob quota %d is no size", c.BlobQuota)
	}
	if c.MaxBlob < 1 {
		return fmt.Errorf("blob limit %d is no size", c.MaxBlob)
	}
	for name, d := range map[string]time.Duration{
		"blob grace": c.BlobGrace, "event window": c.EventWindow, "signup window": c.SignupWindow,
		"access token life": c.AccessTTL, "refresh token life": c.RefreshTTL, "refresh grace": c.RefreshGrace,
	} {
		if d < 0 {
			return fmt.Errorf("%s %s is negative", name, d)
		}
	}
	if err := validateRelays(c.Relays); err != nil {
		return err
	}
	if c.TrustedProxies < 0 {
		return fmt.Errorf("%d trusted proxies", c.TrustedProxies)
	}
	for _, link := range []string{c.PrivacyURL, c.TermsURL} {
		if l, err := url.Parse(link); link != "" && (err != nil || l.Scheme != "https" && l.Scheme != "http" || l.Host == "") {
			return fmt.Errorf("%q is no address of a page", link)
		}
	}
	if c.ContactEmail != "" {
		if _, err := normalEmail(c.ContactEmail); err != nil {
			return fmt.Errorf("contact %q is no e-mail address", c.ContactEmail)
		}
	}
	if c.LimitFactor < 1 || c.LimitFactor > maxLimitFactor {
		return fmt.Errorf("limit factor %d is not from 1 to %d", c.LimitFactor, maxLimitFactor)
	}
	if err := c.Limits.validate(); err != nil {
		return err
	}
	return c.Argon2.Validate()
}

// validateOrigin keeps the switch for development out of production, and a did:web of this server on this server's own host.
func (c Config) validateOrigin(u *url.URL) error {
	switch {
	case u.Scheme == "https" && c.AllowLoopback:
		return fmt.Errorf("loopback is for development: a server at %s must not allow it", c.PublicURL)
	case u.Scheme == "http" && !c.AllowLoopback:
		return fmt.Errorf("%s is not https; only development on loopback goes without", c.PublicURL)
	}
	if own := webDID(u); c.ServiceDID.Method() == "web" && c.ServiceDID != own {
		return fmt.Errorf("service DID %s is not this server's: its address makes it %s", c.ServiceDID, own)
	}
	return nil
}

// Deps is what a server works with. All but Mail, MasterKeys and ResolveHandle are required.
type Deps struct {
	Pool      *pgxpool.Pool // sees the migrated schema
	PLC       *identity.PLC
	Directory indigo.Directory
	// HTTP is the guarded client (xrpc.GuardedClient) for every address that a stranger may name.
	HTTP     *http.Client
	Clock    clock.Clock
	Log      *slog.Logger
	Registry prometheus.Registerer

	AdminPassword string                        // Basic admin:… of createInviteCode
	MasterKey     []byte                        // 32 bytes; seals the accounts' signing keys
	RotationKey   atcrypto.PrivateKeyExportable // signs the accounts' PLC operations
	JWTSecret     []byte                        // at least 32 bytes; signs session tokens
	BlobDir       string                        // a folder of this server's own

	// MasterKeys reads the master keys anew, that first which seals; the others open what was sealed before. nil: MasterKey is the only one.
	MasterKeys func() ([][]byte, error)

	// ResolveHandle finds the DID of a handle outside this server's domains (identity.Handles); nil where none is looked up.
	ResolveHandle func(ctx context.Context, handle syntax.Handle) (syntax.DID, error)

	// Mail sends a text to an address; nil where this server sends no mail.
	Mail func(ctx context.Context, to, subject, text string) error
}

func (d Deps) validate() error {
	switch {
	case d.Pool == nil:
		return errors.New("deps: no database pool")
	case d.PLC == nil:
		return errors.New("deps: no PLC client")
	case d.Directory == nil:
		return errors.New("deps: no identity directory")
	case d.HTTP == nil:
		return errors.New("deps: no HTTP client")
	case d.Clock == nil:
		return errors.New("deps: no clock")
	case d.Log == nil:
		return errors.New("deps: no logger")
	case d.Registry == nil:
		return errors.New("deps: no metrics registry")
	case len(d.AdminPassword) < 8:
		return errors.New("deps: admin password is shorter than 8 characters")
	case d.RotationKey == nil:
		return errors.New("deps: no rotation key")
	case len(d.JWTSecret) < 32:
		return errors.New("deps: token secret is shorter than 32 bytes")
	case d.BlobDir == "":
		return errors.New("deps: no blob folder")
	}
	return nil
}
