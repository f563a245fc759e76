"""Patterns in sixteen languages for what must not be cached: actions, personal data, volatile facts.

With English patterns alone "Wo ist meine Bestellung?" was served to the next user of the tenant for an hour,
and "Quelle heure est-il ?" was up to an hour late. These are the most common words only; other requests in
these languages stay UNKNOWN, which is never served to other wording. RE2's word boundaries are ASCII only:
patterns of other scripts do without. Words of the Latin script are chosen so that English has none of them.
"""

from __future__ import annotations

from typing import Final

_ACTIONS_AT_START = (
    # German
    (
        r"(?:schicke?|sende|buche|buch\s+(?:mir|uns|eine?n?)|bestelle?|storniere?|kündige?|lösche?|überweise?|kaufe?"
        r"|reserviere?|verschiebe?|schalte?|erinnere?\s+mich|mache?\s+.{1,40}\s(?:an|aus|auf|zu))\b"
    ),
    # French
    (
        r"(?:envoie[rz]?|envoyez|annule[rz]?|réserve[rz]?|commande[rz]?|supprime[rz]?|achète|achetez|éteins|éteignez"
        r"|allume[rz]?|transfère|rappelle-moi)\s"
    ),
    # Spanish, Italian, Portuguese
    (
        r"(?:env[ií]a(?:r|me|le)?|cancel[ae]r?|reserv[ae]r?|compr[ae]r?|borr[ae]r?|elimin[ae]r?|apag(?:a|ue)r?|enciende"
        r"|transfiere|recu[eé]rdame|pide|invia(?:re)?|manda(?:re)?|annulla(?:re)?|prenota(?:re)?|ordina(?:re)?"
        r"|cancella(?:re)?|spegni|accendi|trasferisci|ricordami|envi[ae]r?|exclua|desligue?|ligue|transfira"
        r"|agend[ae]r?)\s"
    ),
    # Dutch, Polish
    (
        r"(?:stuur|boek|bestel|annuleer|verwijder|koop|herinner\s+me|wyślij|zarezerwuj|zamów|anuluj|usuń|kup|wyłącz"
        r"|włącz)\s"
    ),
    # Russian, Chinese, Arabic
    r"(?:отправь|отправьте|удали|закажи|забронируй|отмени|купи|выключи|включи|переведи\s+деньги|напомни)",
    (
        r"(?:请|請)?(?:帮我|幫我)?(?:给.{1,20}发|給.{1,20}發|发送?(?:邮件|短信)|取消|删除|刪除|预订|预定|預訂|订购|购买|購買|转账|轉帳|关闭"
        r"|打开|重启|提醒我)"
    ),
    r"(?:أرسل|احذف|احجز|ألغ|اطلب|اشتر)",
)
_POLITE = (
    r"^(?:bitte\s+|kannst\s+du\s+(?:bitte\s+)?|s['’]il\s+(?:te|vous)\s+pla[iî]t,?\s+|por\s+favor,?\s+|per\s+favore,?\s+"
    r"|пожалуйста,?\s+|proszę\s+|alsjeblieft\s+)*"
)
_ACTIONS_AT_END = (
    r"(?:送って|削除して|予約して|キャンセルして|注文して|買って|消して|振り込んで)(?:ください)?[。.!！]?\s*$",
    r"(?:보내|취소해|삭제해|예약해|주문해|결제해|꺼|켜)\s?(?:줘|주세요)[.!]?\s*$",
    r"(?:भेजो|भेजें|भेज\s+दो|रद्द\s+कर|बुक\s+कर|हटा\s+दो|डिलीट\s+कर)",
)
ACTION: Final = rf"{_POLITE}(?:{'|'.join(_ACTIONS_AT_START)})|{'|'.join(_ACTIONS_AT_END)}"

_PERSONAL = (
    r"\b(?:meine?[mnrs]?|minha|meus?|minhas|mijn|moj[aeą]|mojego|mojej|moim)\s",
    r"\bmój\s",
    (
        r"\b(?:mon|ma|mes)\s+(?:commandes?|comptes?|solde|colis|factures?|abonnements?|rendez-vous|réservations?"
        r"|mot\s+de\s+passe|profil|agenda|calendrier|vols?|billets?|panier|adresse|e-?mails?|messages?|nom|salaire"
        r"|remboursement|livraison|cartes?|dossier|contrat|âge)"
    ),
    (
        r"\bmis?\s+(?:pedidos?|saldo|cuentas?|facturas?|reservas?|citas?|contraseña|perfil|suscripci|paquetes?|env[ií]o"
        r"|vuelos?|carrito|correos?|nombre|direcci|tarjetas?|contrato|reembolso|edad)"
    ),
    (
        r"\b(?:mio|mia|miei|mie)\s+(?:ordin[ei]|saldo|conto|fattur[ae]|prenotazion[ei]|appuntament[oi]|password|profilo"
        r"|abbonamento|pacco|vol[oi]|carrello|nome|indirizzo|carta|rimborso|spedizione|età)"
    ),
    r"\b(?:min|mitt|mina|mit|mine)\s+(?:beställning|bestilling|konto|saldo|ordre|faktura|pakke|paket)",
    r"\b(?:siparişim|hesabım|bakiyem|faturam|randevum|aboneliğim|kargom|sepetim)",
    r"(?:^|[\s,«(])(?:мой|моя|моё|мое|мои|моего|моей|моих|моим|у\s+меня)\s",
    r"(?:παραγγελία|λογαριασμός|υπόλοιπό?|ραντεβού)\s+μου",
    r"我的(?:订单|訂單|余额|餘額|账户|帳戶|账号|账单|密码|密碼|预订|包裹|快递|航班|会议|日程|邮件|名字|地址|工资|退款|购物车|订阅|合同)",
    r"(?:私|僕|俺|わたし|自分)の",
    r"(?:^|\s)(?:내|제|나의|저의)\s",
    r"(?:طلبي|حسابي|رصيدي|فاتورتي|موعدي|حجزي|اشتراكي|اسمي)",
    r"(?:मेरा|मेरी|मेरे)",
)
PERSONAL: Final = "|".join(_PERSONAL)

_VOLATILE = (
    # German, Dutch, Scandinavian
    (
        r"\b(?:heute|heutige[nrs]?|gestern|morgen|derzeit|momentan|zurzeit|jetzt|aktuell(?:e[mnrs]?)?|wetter(?:bericht)?"
        r"|wie\s+viel\s+uhr|uhrzeit|neueste[nrs]?|aktienkurs|wechselkurs|kostet\s+.{1,30}\sgerade|vandaag|gisteren"
        r"|op\s+dit\s+moment|momenteel|hoe\s+laat|het\s+weer|huidige|wisselkoers|i\s?dag|i\s?morgon|klockan|klokka|just\s+nu)\b"
    ),
    r"\bwie\s+spät\b|\bväder|\bvæ?re[rt]|\bvejret\b",
    # French, Spanish, Italian, Portuguese
    (
        r"\b(?:aujourd['’]hui|maintenant|actuel(?:le)?(?:ment)?|demain|quel\s+temps\s+fait|quelle\s+heure|en\s+ce\s+moment"
        r"|ce\s+soir|taux\s+de\s+change|hoy|ahora|ayer|actualmente|(?:presidente|precio|tiempo)\s+actual|qu[eé]\s+hora"
        r"|el\s+tiempo\s+en|tipo\s+de\s+cambio|oggi|adesso|domani|ieri|stasera|che\s+tempo\s+fa|che\s+or[ae]|attuale"
        r"|attualmente|hoje|agora|ontem|atual(?:mente)?|que\s+horas)\b"
    ),
    r"\bmétéo|\bmañana\b|\bqu[eé]\s+tiempo\s+hace|\bamanhã|\bcomo\s+está\s+o\s+tempo|\bcotaç|\bcotizaci|últimas\s+not[ií]cias",
    # Polish, Turkish
    r"\b(?:dzisiaj|teraz|jutro|wczoraj|pogod[aęy]|aktualn[aeiy]\w*|bugün|hava\s+(?:durumu|nas)|saat\s+ka|şu\s+an)",
    r"\bdziś|\bktóra\s+godzina",
    # Other scripts
    r"(?:сегодня|сейчас|завтра|вчера|погод[аеуы]|который\s+час|сколько\s+времени|текущ|курс\s+(?:доллара|евро|валют))",
    r"(?:σήμερα|τώρα|αύριο|καιρός|τι\s+ώρα)",
    r"(?:今天|现在|現在|目前|明天|昨天|今晚|最新|天气|天氣|几点|幾點|股价|股價|汇率|匯率|新闻|新聞)",
    r"(?:今日|今何時|明日|昨日|天気|株価|為替|ニュース)",
    r"(?:오늘|지금|현재|내일|어제|날씨|몇\s?시|최신|주가|환율|뉴스)",
    r"(?:اليوم|الآن|غدا|أمس|الطقس|كم\s+الساعة|حاليا|أسعار)",
    r"(?:आज|अभी|मौसम|कितने\s+बजे|वर्तमान|ताज़ा|ताजा)",
)
VOLATILE: Final = "|".join(_VOLATILE)
