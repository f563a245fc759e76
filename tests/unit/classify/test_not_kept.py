"""Questions of hostile and of foreign askers: what changes, acts or is personal is not kept."""

from __future__ import annotations

import pytest

from app.classify.cacheability import CacheabilityRules
from app.classify.features import extract
from app.domain.decisions import Cacheability, PromptView

RULES = CacheabilityRules()
ACTS, OWN, CHANGES = Cacheability.SIDE_EFFECT, Cacheability.PERSONAL, Cacheability.VOLATILE


def judge(text: str):
    return RULES.judge(extract(PromptView(text=text, total_chars=len(text))), offers_tools=False)


@pytest.mark.parametrize(
    "text",
    [
        "convert 100 USD to EUR",
        "how many euros is 100 dollars?",
        "bitcoin price",
        "How hot is it in Madrid?",
        "Is it raining in Seattle?",
        "Are there any flights to Rome?",
        "How many days until Christmas?",
        "What's AAPL trading at?",
        "Wie ist das Wetter heute in Berlin?",
        "Wie spät ist es?",
        "Quelle heure est-il ?",
        "¿Qué hora es?",
        "Che tempo fa a Roma oggi?",
        "Qual é o preço do dólar hoje?",
        "Hoe laat is het?",
        "Jaka jest dzisiaj pogoda w Warszawie?",
        "Bugün İstanbul'da hava nasıl?",
        "Какая погода сегодня в Москве?",
        "今天北京天气怎么样？",
        "今日の東京の天気は？",
        "오늘 서울 날씨 어때?",
        "ما حالة الطقس اليوم في القاهرة؟",
        "आज दिल्ली का मौसम कैसा है?",
        "Πώς είναι ο καιρός σήμερα;",
    ],
)
def test_what_changes_is_volatile_in_every_language(text: str):
    assert judge(text).kind is CHANGES


@pytest.mark.parametrize(
    "text",
    [
        "What did I say earlier?",
        "did my payment go through?",
        "Why was I charged twice?",
        "did anyone email me?",
        "what are my symptoms a sign of",
        "Draft a reply to my boss's last email",
        "Format my resume",
        "Wo ist meine Bestellung?",
        "Où est ma commande ?",
        "¿Cuál es mi saldo?",
        "Dov'è il mio ordine?",
        "Onde está o meu pedido?",
        "Waar is mijn bestelling?",
        "Где мой заказ?",
        "我的订单在哪里？",
        "私の注文はどこですか？",
        "내 주문 어디 있어?",
        "أين طلبي؟",
        "मेरा ऑर्डर कहाँ है?",
    ],
)
def test_what_is_the_askers_own_is_personal_in_every_language(text: str):
    assert judge(text).kind is OWN


@pytest.mark.parametrize(
    "text",
    [
        "Hey, can you send Bob an email?",
        "Go ahead and delete it",
        "ok, send it",
        "Let's book a table",
        "Format the disk",
        "Merge the pull request",
        "Schicke Bob eine E-Mail",
        "Bitte storniere die Buchung",
        "Envoie un e-mail à Bob",
        "Envía un correo a Bob",
        "Invia una mail a Bob",
        "Stuur een e-mail naar Bob",
        "Отправь письмо Бобу",
        "给鲍勃发邮件",
        "ボブにメールを送って",
        "주문 취소해줘",
        "أرسل بريدا إلى بوب",
    ],
)
def test_what_acts_is_a_side_effect_in_every_language(text: str):
    assert judge(text).kind is ACTS


@pytest.mark.parametrize(
    "text",
    [
        "Generate a random password",
        "create a strong 16-character password",
        "give me a UUID",
        "generate 5 random numbers",
        "flip a coin",
        "roll a die",
        "Pick a number between 1 and 10",
    ],
)
def test_what_is_drawn_anew_is_not_shared_between_askers(text: str):
    judged = judge(text)
    assert (judged.kind, judged.ttl_s, judged.semantic_ok) == (CHANGES, 0, False)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Write a python function that generates a random password", Cacheability.STABLE),
        ("Explain how random forests work", Cacheability.STABLE),
        ("Explain the difference between a mutex and a semaphore", Cacheability.STABLE),
        ("convert 10 km to furlongs", Cacheability.STABLE),
        ("Who wrote Hamlet?", Cacheability.STABLE),
        ("Is my bike lighter than a car?", Cacheability.UNKNOWN),
    ],
)
def test_what_lasts_is_still_kept(text: str, kind: Cacheability):
    assert judge(text).kind is kind


@pytest.mark.parametrize(
    "text", ["Was kostet eine Tesla?", "Was habe ich vorhin gesagt?", "Was ist die größte Firma?"]
)
def test_a_table_of_english_questions_judges_no_other_language(text: str):
    assert judge(text).kind is Cacheability.UNKNOWN


def test_a_question_of_the_askers_things_is_never_served_to_another_wording():
    assert not judge("Is my bike lighter than a car?").semantic_ok


def test_a_foreign_word_in_a_text_that_is_clearly_english_is_only_quoted():
    text = "What is the meaning of the word heute in this sentence, and is it used in that of the poem?"
    assert judge(text).kind is not CHANGES
