package pages

import (
	"html/template"
	"slices"
	"time"
)

// Who is an account as its pages name it.
type Who struct {
	Handle string
	DID    string
	Path   string // of its first page
}

// Failure says that there is no page to show. Key is a phrase's.
type Failure struct{ Key string }

// SignIn asks for an account's name and password.
type SignIn struct {
	Next       string // where to go on, within this server
	New        string // where an account is made instead
	Client     string // host name of the application that waits, or nothing
	Identifier string // as it was typed
}

// Consent asks whether an application may act for an account.
type Consent struct {
	Client     Client
	Back       string // host, or scheme of an app, to which the reader goes back
	ClientID   string
	RequestURI string
	Who        Who
	ActFor     []ActFor // organizations that the reader may act for
	Asks       []Ask
	Another    string // where another account is chosen
}

// ActFor is an organization for which somebody acts, in a role.
type ActFor struct {
	DID, Handle, Role string
	Meant             bool // the application has it in mind
}

// Meant tells whether the application has one of the organizations in mind.
func (c Consent) Meant() bool {
	return slices.ContainsFunc(c.ActFor, func(a ActFor) bool { return a.Meant })
}

// Client is the application that asks. Host is sure; Name is what it calls itself.
type Client struct {
	Host, Name string
	Loopback   bool // a program on this computer, which has no host
	Trusted    bool
}

// Choose lets the reader pick the account that an application asks about.
type Choose struct {
	Host    string // of the application; empty for a program on this computer
	Who     []Who
	Another string
}

// AppRequest says that an application's request is not in order.
type AppRequest struct{ Code, Description string }

// NewAccount asks for what a new account needs. Fields are as they were typed.
type NewAccount struct {
	Next          string
	Domains       []string
	Name, Domain  string // of the handle
	Email, Invite string
	InviteNeeded  bool
}

// SignInCode asks for the second factor of an account whose password was right.
type SignInCode struct{ Next, Ticket string }

// TwoStep is the page of the second factor.
type TwoStep struct {
	Who   Who
	On    bool
	Left  int      // recovery codes that are still good
	Setup *Setup   // while it is being set up
	Codes []string // recovery codes, shown this once
}

// Setup is the secret of a second factor, for a camera, for this phone and for typing.
type Setup struct {
	Code   template.HTML
	Link   template.URL
	Secret string
}

// Accounts lets the reader choose among those signed in on the device.
type Accounts struct{ Who []Who }

// Account is an account's first page.
type Account struct {
	Who    Who
	Status string
	Menu   []Item
	Others []Who // signed in on the same device
}

// Item is a line of the account's menu: the phrases menu.KEY and menu.KEY.why.
type Item struct{ Key, Path string }

// Devices lists where an account is signed in.
type Devices struct {
	Who      Who
	Devices  []Device
	Programs int // sessions of programs that know the password
}

// Device is one browser.
type Device struct {
	ID            string
	Words         string // "Firefox · Android"
	Created, Seen time.Time
	Current       bool
}

// NewPassword asks for a new password.
type NewPassword struct{ Who Who }

// Apps lists the applications that may act for an account.
type Apps struct {
	Who  Who
	Apps []App
}

// App is one of them.
type App struct {
	ID            string
	Client        Client
	By            string // who allowed it, where it was not the account itself
	For           string // for whom the account allowed it, where it was not for itself
	Device        string // the browser in which that was
	Created, Used time.Time
	Asks          []Ask
}

// AppPasswords lists an account's app passwords.
type AppPasswords struct {
	Who  Who
	List []AppPassword
	Name string // as it was typed
	Made string // the new one, shown this once
}

// AppPassword is one of them.
type AppPassword struct {
	Name       string
	Privileged bool
	Created    time.Time
}

// Email is the page of an account's address.
type Email struct {
	Who       Who
	Address   string // empty where there is none
	Confirmed bool
	Mail      bool   // this server sends mail
	Wanted    string // as it was typed
}

// Forgotten asks for the address to which a code for a new password goes.
type Forgotten struct{ Address string }

// Reset takes that code and the new password.
type Reset struct{}

// Data hands an account its records and files.
type Data struct {
	Who   Who
	Blobs []Blob
	More  string
}

// Blob is a file of an account.
type Blob struct {
	CID, Mime, Path string
	Bytes           int64
}

// Close is the way out of an account.
type Close struct {
	Who    Who
	Status string
	Mailed bool // a code goes to its address before it is deleted
	Factor bool // or a code of its second step is asked for
	Detail string
}

// Handle is the page of an account's name. Detail is what was wrong, in English.
type Handle struct {
	Who     Who
	Domains []string
	Wanted  string // as it was typed
	Detail  string
}

// People is the page of those who act for an account, and of those for whom it acts.
type People struct {
	Who          Who
	People       []Person
	ActsFor      []Person
	Offered      []string // roles
	Wanted, Role string   // as they were given
	Acts         []Act    // what was done in the account's name, the latest first
	More         string
}

// Person is one end of a role.
type Person struct {
	DID, Name, Role string
	Since           *time.Time // nil: invited, and not yet accepted
	Invited         time.Time
}

// Act is one thing that was done for an account.
type Act struct {
	At             time.Time
	Actor, Subject string // names; an actor whose account is gone has none
	Action, What   string
	Client         string
}

func (People) view() string       { return "people" }
func (Apps) view() string         { return "apps" }
func (AppPasswords) view() string { return "apppasswords" }
func (Email) view() string        { return "email" }
func (Forgotten) view() string    { return "forgotten" }
func (Reset) view() string        { return "reset" }
func (Data) view() string         { return "data" }
func (Handle) view() string       { return "handle" }
func (Close) view() string        { return "close" }
func (Failure) view() string      { return "error" }
func (SignIn) view() string       { return "signin" }
func (Consent) view() string      { return "consent" }
func (Choose) view() string       { return "choose" }
func (AppRequest) view() string   { return "apprequest" }
func (NewAccount) view() string   { return "new" }
func (SignInCode) view() string   { return "signincode" }
func (TwoStep) view() string      { return "twostep" }
func (Accounts) view() string     { return "accounts" }
func (Account) view() string      { return "account" }
func (Devices) view() string      { return "devices" }
func (NewPassword) view() string  { return "newpassword" }
