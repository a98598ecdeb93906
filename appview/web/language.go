package web

import (
	"net/http"
	"strings"
)

// language is the page's language: ?lang=, then the reader's last choice, then the browser's wish, then English.
func language(r *http.Request) string {
	if l := r.URL.Query().Get("lang"); known(l) {
		return l
	}
	if c, err := r.Cookie("lang"); err == nil && known(c.Value) {
		return c.Value
	}
	for wish := range strings.SplitSeq(r.Header.Get("Accept-Language"), ",") {
		tag, _, _ := strings.Cut(strings.TrimSpace(wish), ";")
		primary, _, _ := strings.Cut(strings.ToLower(tag), "-")
		if known(primary) {
			return primary
		}
	}
	return "en"
}

func known(lang string) bool { return lang == "en" || lang == "es" }

// phrase gives the words for key. A missing phrase shows its key, and a test finds it.
func phrase(lang, key string) string {
	p, ok := lookUp(key)
	switch {
	case !ok:
		return key
	case lang == "es":
		return p.es
	}
	return p.en
}

func lookUp(key string) (words, bool) {
	for _, some := range []map[string]words{phrases, entryPhrases, auditPhrases} {
		if p, ok := some[key]; ok {
			return p, true
		}
	}
	return words{}, false
}

// words are one phrase in both languages.
type words struct{ en, es string }

var phrases = map[string]words{
	"skip":              {"Skip to the content", "Ir al contenido"},
	"language":          {"Language", "Idioma"},
	"demonstration":     {"Demonstration, no affiliation: organizations, places and figures are examples.", "Demostración, sin afiliación: organizaciones, lugares y cifras son ejemplos."},
	"home":              {"Civic credits", "Créditos cívicos"},
	"intro":             {"Volunteer work that the city recognises, and what it gives access to. The totals open to the log entries and signed records behind them.", "El trabajo voluntario que la ciudad reconoce y a qué da acceso. Los totales se abren hasta las entradas de la bitácora y los registros firmados que los respaldan."},
	"epoch":             {"Epoch", "Época"},
	"until":             {"to", "al"},
	"figures":           {"Credits of this epoch", "Créditos de esta época"},
	"capacity":          {"Capacity offered each month", "Capacidad ofrecida cada mes"},
	"cap":               {"Most that may be issued", "Máximo que se puede emitir"},
	"reserved":          {"Reserved for tasks", "Reservados para tareas"},
	"minted":            {"Issued", "Emitidos"},
	"burned":            {"Redeemed and burned", "Canjeados y cancelados"},
	"votes":             {"Votes that came with them", "Votos que los acompañaron"},
	"supply":            {"In people's hands", "En manos de la gente"},
	"notOpen":           {"No epoch is open yet. Nothing can be issued.", "Todavía no hay una época abierta. No se puede emitir nada."},
	"issuers":           {"Organizations that issue", "Organizaciones que emiten"},
	"organization":      {"Organization", "Organización"},
	"allocation":        {"Allocation", "Asignación"},
	"tasks":             {"Tasks", "Tareas"},
	"noTasks":           {"No tasks yet.", "Todavía no hay tareas."},
	"task":              {"Task", "Tarea"},
	"creditsIssued":     {"credits issued", "créditos emitidos"},
	"refusedTasks":      {"Tasks that the ledger does not count", "Tareas que el libro mayor no cuenta"},
	"refusedIntro":      {"These tasks were published and the ledger does not count them: they take no claims.", "Estas tareas se publicaron y el libro mayor no las cuenta: no admiten solicitudes."},
	"countedTasks":      {"Show the tasks that count", "Mostrar las tareas que cuentan"},
	"log.reserve":       {"Credits reserved", "Créditos reservados"},
	"log.mint":          {"Credits issued", "Créditos emitidos"},
	"log.burn":          {"Credits redeemed and burned", "Créditos canjeados y cancelados"},
	"log.hold":          {"Credits put aside for a counter", "Créditos apartados para un mostrador"},
	"log.expire":        {"Credits expired", "Créditos vencidos"},
	"logIntro":          {"Each line is an entry of the city's public log. Open it to see the signed records behind it.", "Cada línea es una entrada de la bitácora pública de la ciudad. Ábrela para ver los registros firmados que la respaldan."},
	"creditsEach":       {"credits for each completion", "créditos por cada tarea cumplida"},
	"slots":             {"slots", "lugares"},
	"claimsEntered":     {"claims entered", "solicitudes registradas"},
	"verified":          {"verified", "verificadas"},
	"notCounted":        {"Not counted by the ledger", "El libro mayor no la cuenta"},
	"offerings":         {"What credits give access to", "A qué dan acceso los créditos"},
	"noOfferings":       {"No offerings yet.", "Todavía no hay ofertas."},
	"creditsPer":        {"credits per", "créditos por"},
	"unitsMonth":        {"each month", "al mes"},
	"creditsBurned":     {"credits redeemed", "créditos canjeados"},
	"notInCapacity":     {"Not counted in this epoch's capacity", "No cuenta en la capacidad de esta época"},
	"more":              {"More", "Más"},
	"chain":             {"From the catalog to the receipt", "Del catálogo al recibo"},
	"chainIntro":        {"Each step is a record signed by its author, or an entry of the city's public log.", "Cada paso es un registro firmado por su autor o una entrada de la bitácora pública de la ciudad."},
	"chainCut":          {"There are more steps than this page shows.", "Hay más pasos de los que muestra esta página."},
	"step.draft":        {"Draft in the organization's catalog", "Borrador en el catálogo de la organización"},
	"step.decision":     {"The city's decision", "Decisión de la ciudad"},
	"step.entry":        {"Catalog entry approved by the city", "Entrada del catálogo aprobada por la ciudad"},
	"step.entryStatus":  {"Status of the entry", "Estado de la entrada"},
	"step.task":         {"Task published", "Tarea publicada"},
	"step.taskStatus":   {"Status of the task", "Estado de la tarea"},
	"step.reserve":      {"Credits reserved", "Créditos reservados"},
	"step.release":      {"Credits released", "Créditos liberados"},
	"step.claim":        {"Claim", "Solicitud"},
	"step.unclaim":      {"Claim withdrawn or lapsed", "Solicitud retirada o vencida"},
	"step.proof":        {"Proof", "Prueba"},
	"step.verification": {"Verification", "Verificación"},
	"step.mint":         {"Credits issued", "Créditos emitidos"},
	"step.receipt":      {"Receipt", "Recibo"},
	"step.review":       {"Review", "Reseña"},
	"step.reverse":      {"Credits taken back", "Créditos retirados"},
	"step.dispute":      {"Objection", "Objeción"},
	"step.resolution":   {"The city's answer", "Respuesta de la ciudad"},
	"step.pause":        {"Put on hold", "Puesta en pausa"},
	"step.resume":       {"Hold ended", "Fin de la pausa"},
	"withdrawn":         {"This record was withdrawn by its author; this signed copy is kept. What the city's log made of it stands.", "Su autor retiró este registro; esta copia firmada se conserva. Lo que la bitácora de la ciudad hizo de él sigue en pie."},
	"withdrawnUnseen":   {"This record was withdrawn by its author before this site saw it. What the city's log made of it stands; the signed evidence is kept by the ledger.", "Su autor retiró este registro antes de que este sitio lo viera. Lo que la bitácora de la ciudad hizo de él sigue en pie; el libro mayor conserva la evidencia firmada."},
	"withdrawnStep":     {"withdrawn by its author", "retirado por su autor"},
	"superseded":        {"A newer version has replaced this one; this signed copy is kept.", "Una versión más nueva reemplazó a esta; esta copia firmada se conserva."},
	"purged":            {"The account behind this record was deleted, and its content with it. What the city's log made of it stands.", "La cuenta de este registro se eliminó, y con ella su contenido. Lo que la bitácora de la ciudad hizo de él sigue en pie."},
	"notKept":           {"The city's log rests on this record, but this site does not show it at the moment. The signed evidence is kept by the ledger.", "La bitácora de la ciudad se apoya en este registro, pero este sitio no lo muestra por ahora. El libro mayor conserva la evidencia firmada."},
	"citedBy":           {"Entries of the city's log that rest on it", "Entradas de la bitácora de la ciudad que se apoyan en él"},
	"logEntry":          {"Log entry", "Entrada de la bitácora"},
	"record":            {"Signed record", "Registro firmado"},
	"author":            {"Author", "Autor"},
	"collection":        {"Kind of record", "Tipo de registro"},
	"version":           {"Version", "Versión"},
	"commit":            {"Revision", "Revisión"},
	"content":           {"Content", "Contenido"},
	"causes":            {"Caused by", "Causado por"},
	"kind":              {"Kind", "Tipo"},
	"day":               {"Day", "Día"},
	"amount":            {"Credits", "Créditos"},
	"checkpoint":        {"Checkpoint", "Punto de control"},
	"entries":           {"entries", "entradas"},
	"evidence":          {"Signed evidence (CAR file)", "Evidencia firmada (archivo CAR)"},
	"invalid":           {"This record does not follow its schema and is not counted", "Este registro no cumple su esquema y no cuenta"},
	"back":              {"Back to the city", "Volver a la ciudad"},
	"notFound":          {"There is nothing at this address.", "No hay nada en esta dirección."},
	"notYet":            {"The city has not been seen on the network yet. Try again in a moment.", "La ciudad aún no se ha visto en la red. Inténtalo de nuevo en un momento."},
	"ourFault":          {"Something failed on our side. It has been noted.", "Algo falló de nuestro lado. Quedó anotado."},
	"January":           {"January", "enero"},
	"February":          {"February", "febrero"},
	"March":             {"March", "marzo"},
	"April":             {"April", "abril"},
	"May":               {"May", "mayo"},
	"June":              {"June", "junio"},
	"July":              {"July", "julio"},
	"August":            {"August", "agosto"},
	"September":         {"September", "septiembre"},
	"October":           {"October", "octubre"},
	"November":          {"November", "noviembre"},
	"December":          {"December", "diciembre"},
	"errorTitle":        {"Not available", "No disponible"},
}
