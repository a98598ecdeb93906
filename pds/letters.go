package pds

import (
	"fmt"
	"time"
)

// letter is a mail that carries a word. It says everything twice, in English and in Spanish: who reads it is not asked for a language
// before. Each text takes the handle, the word and the minutes it is good for, in this order.
type letter struct {
	Subject          string
	English, Spanish string
}

func (l letter) text(handle, word string) string {
	minutes := int(wordLife / time.Minute)
	return fmt.Sprintf(l.English, handle, word, minutes) + "\n\n---\n\n" + fmt.Sprintf(l.Spanish, handle, word, minutes) + "\n"
}

var (
	letterDelete = letter{
		Subject: "Delete your account / Elimina tu cuenta",
		English: "Somebody who is signed in as %s asked to delete that account.\n\nTo delete it, give this code: %s\n\n" +
			"It is good for %d minutes. If it was not you, do nothing and change your password.",
		Spanish: "Alguien que inició sesión como %s pidió eliminar esa cuenta.\n\nPara eliminarla, escribe este código: %s\n\n" +
			"Sirve durante %d minutos. Si no fuiste tú, no hagas nada y cambia tu contraseña.",
	}
	letterConfirmEmail = letter{
		Subject: "Confirm your e-mail address / Confirma tu correo",
		English: "The account %s gives this e-mail address as its own.\n\nTo confirm it, give this code: %s\n\n" +
			"It is good for %d minutes. If the account is not yours, do nothing.",
		Spanish: "La cuenta %s da esta dirección de correo como suya.\n\nPara confirmarla, escribe este código: %s\n\n" +
			"Sirve durante %d minutos. Si la cuenta no es tuya, no hagas nada.",
	}
	letterUpdateEmail = letter{
		Subject: "Change your e-mail address / Cambia tu correo",
		English: "Somebody who is signed in as %s asked to change that account's e-mail address.\n\nTo change it, give this code: %s\n\n" +
			"It is good for %d minutes. If it was not you, do nothing and change your password.",
		Spanish: "Alguien que inició sesión como %s pidió cambiar el correo de esa cuenta.\n\nPara cambiarlo, escribe este código: %s\n\n" +
			"Sirve durante %d minutos. Si no fuiste tú, no hagas nada y cambia tu contraseña.",
	}
	letterResetPassword = letter{
		Subject: "Set a new password / Elige otra contraseña",
		English: "Somebody asked for a new password for the account %s.\n\nTo set one, give this code: %s\n\n" +
			"It is good for %d minutes. If it was not you, do nothing: your password stays as it is.",
		Spanish: "Alguien pidió otra contraseña para la cuenta %s.\n\nPara elegirla, escribe este código: %s\n\n" +
			"Sirve durante %d minutos. Si no fuiste tú, no hagas nada: tu contraseña sigue igual.",
	}
	letterPLCOperation = letter{
		Subject: "Change your account's identity / Cambia la identidad de tu cuenta",
		English: "Somebody who is signed in as %s asked to change that account's identity, for example to move it to another server.\n\n" +
			"To allow it, give this code: %s\n\nIt is good for %d minutes. If it was not you, do nothing and change your password: " +
			"who changes the identity can take the account.",
		Spanish: "Alguien que inició sesión como %s pidió cambiar la identidad de esa cuenta, por ejemplo para llevarla a otro servidor.\n\n" +
			"Para permitirlo, escribe este código: %s\n\nSirve durante %d minutos. Si no fuiste tú, no hagas nada y cambia tu contraseña: " +
			"quien cambia la identidad puede quedarse con la cuenta.",
	}
)
