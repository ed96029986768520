"""Sentences and voices of the synthetic talker. All sentences were written for this file.

The last sentence of each language and the voices in HELD_OUT_VOICES are never used in training. Training also uses the words of the other
sentences in random order. Chinese is written in pinyin with tone numbers.
"""

from __future__ import annotations

SENTENCES: dict[str, tuple[str, ...]] = {
    "en": (
        "Every morning the baker opens the blue door and the whole street smells of warm bread.",
        "My brother bought five maps, but none of them shows the path above the river.",
        "Please put the yellow umbrella by the window before the weather changes.",
        "We watched the boats move slowly past the old bridge, and nobody said a word.",
        "How far is it from the village to the sea? About three hours, if the fog lifts.",
        "She measured the shadow of the tower and wrote the number on a piece of paper.",
        "Could you bring me a cup of coffee with milk, and maybe a slice of apple pie?",
        "Above the quiet valley a small bird was looking for somebody to sing with.",
    ),
    "es": (
        "Por la mañana el pueblo huele a pan recién hecho y a café con leche.",
        "Mi abuela guarda en la cocina una caja llena de botones de muchos colores.",
        "¿Puedes abrir la ventana? Afuera sopla un viento muy suave.",
        "Los niños bajaron corriendo por el camino para ver pasar el tren.",
        "Mañana vamos a pasear por la playa y a buscar piedras bonitas.",
    ),
    "fr": (
        "Le matin, une bonne odeur de pain chaud remplit toute la rue.",
        "Mon petit frère a perdu son parapluie bleu près du vieux pont.",
        "Pouvez-vous fermer la porte, s'il vous plaît ? Il fait un peu froid.",
        "Nous avons bu un thé au bord du lac en regardant passer les nuages.",
        "Demain, nous ferons une longue promenade dans la forêt avec nos amis.",
    ),
    "de": (
        "Am frühen Morgen öffnet der Bäcker die Tür, und die Straße riecht nach Brot.",
        "Meine Großmutter bewahrt bunte Knöpfe in einer alten Büchse auf.",
        "Kannst du bitte das Fenster zumachen? Draußen weht ein kühler Wind.",
        "Über dem Fluss hängt noch Nebel, aber bald kommt die Sonne heraus.",
        "Morgen wollen wir mit dem Boot zur kleinen Insel hinüberfahren.",
    ),
    "it": (
        "La mattina presto il fornaio apre la porta e la via profuma di pane.",
        "Mia nonna tiene in cucina una vecchia scatola piena di bottoni.",
        "Puoi aprire la finestra, per favore? Fuori c'è un bel sole.",
        "Abbiamo visto le barche passare piano sotto il ponte di pietra.",
        "Domani faremo una lunga passeggiata fino al paese sulla collina.",
    ),
    "pt": (
        "De manhã cedo o padeiro abre a porta e a rua cheira a pão quente.",
        "A minha avó guarda botões coloridos numa caixa em cima da mesa.",
        "Você pode abrir a janela, por favor? Lá fora sopra um vento bom.",
        "Os barcos passavam devagar por baixo da ponte, e ninguém falava.",
        "Amanhã vamos caminhar pela praia e procurar conchas bonitas.",
    ),
    "zh": (
        "jin1 tian1 tian1 qi4 hen3 hao3, wo3 men5 yi4 qi3 qu4 gong1 yuan2 san4 bu4 ba5.",
        "ma1 ma5 zai4 chu2 fang2 li3 zuo4 fan4, wo3 zai4 fang2 jian1 li3 kan4 shu1.",
        "qing3 wen4, cong2 zhe4 li3 dao4 huo3 che1 zhan4 yao4 zou3 duo1 jiu3?",
        "wo3 peng2 you5 mai3 le5 yi4 ba3 lan2 se4 de5 yu3 san3, fei1 chang2 piao4 liang5.",
        "chun1 tian1 lai2 le5, shan1 shang4 de5 hua1 dou1 kai1 le5.",
        "ming2 tian1 zao3 shang5 ba1 dian3, wo3 men5 zai4 xue2 xiao4 men2 kou3 jian4 mian4.",
    ),
    "ja": (
        "あさはやく、パンやさんがみせのドアをあけます。",
        "わたしのあにはきのう、あおいかさをなくしてしまいました。",
        "すみませんが、まどをしめていただけませんか。",
        "ふねがゆっくりとふるいはしのしたをとおっていきました。",
        "あしたはともだちといっしょに、うみまであるいていきます。",
    ),
    "hi": (
        "सुबह होते ही पूरी गली में गरम रोटी की महक फैल जाती है।",
        "मेरे भाई ने बाज़ार से एक नीला छाता खरीदा था।",
        "क्या आप खिड़की बंद कर सकते हैं? बाहर ठंडी हवा चल रही है।",
        "कल हम सब मिलकर नदी के पार वाले गाँव जाएँगे।",
    ),
    "ar": (
        "في الصباح الباكر يفتح الخباز بابه وتملأ رائحة الخبز الشارع.",
        "اشترى أخي مظلة زرقاء من السوق القديم.",
        "هل يمكنك أن تغلق النافذة من فضلك؟ الجو بارد اليوم.",
        "غدا نمشي معا إلى البحر ونشرب الشاي.",
    ),
    "ru": (
        "Рано утром пекарь открывает дверь, и вся улица пахнет хлебом.",
        "Мой брат купил на рынке большой синий зонт.",
        "Закройте, пожалуйста, окно, на улице холодный ветер.",
        "Лодки медленно плыли под старым мостом, и все молчали.",
        "Завтра мы пойдём гулять в лес и будем собирать грибы.",
    ),
}

SPEAKERS: dict[str, tuple[str, ...]] = {
    "en": ("en-us", "en", "en-gb-x-rp"),
    "es": ("es", "es-419"),
    "fr": ("fr",),
    "de": ("de",),
    "it": ("it",),
    "pt": ("pt-br", "pt"),
    "zh": ("cmn-latn-pinyin",),
    "ja": ("ja",),
    "hi": ("hi",),
    "ar": ("ar",),
    "ru": ("ru",),
}
"""espeak-ng voices of each language."""
VARIANTS = ("", "+m1", "+m2", "+m3", "+m5", "+m7", "+m8", "+f1", "+f2", "+f3", "+f4")
"""Variants of men and women that work with any voice."""

HELD_OUT_VOICES: tuple[tuple[str, str], ...] = (
    ("en", "en-us+Annie"),
    ("en", "en-gb-scotland+m1"),
    ("zh", "cmn-latn-pinyin+m4"),
    ("es", "es+m6"),
    ("de", "de+f5"),
    ("it", "it+f2"),
)

TRAIN_VOICES: tuple[tuple[str, str], ...] = tuple(
    pair
    for language, speakers in SPEAKERS.items()
    for speaker in speakers
    for pair in ((language, f"{speaker}{variant}") for variant in VARIANTS)
    if pair not in HELD_OUT_VOICES
)
"""(language, espeak-ng voice)."""
