"""The facts themselves: our own tables of everyday knowledge, one family a dictionary from subject to answer.

Which of them a backbone really knows is measured, not assumed (`facts.known`).
"""

CAPITALS = dict(
    pair.split(":")
    for pair in (
        "France:Paris,Germany:Berlin,Italy:Rome,Spain:Madrid,Japan:Tokyo,China:Beijing,Russia:Moscow,Egypt:Cairo,"
        "Greece:Athens,Portugal:Lisbon,Poland:Warsaw,Austria:Vienna,Hungary:Budapest,Ireland:Dublin,Norway:Oslo,"
        "Sweden:Stockholm,Finland:Helsinki,Denmark:Copenhagen,Belgium:Brussels,Cuba:Havana,Peru:Lima,"
        "Chile:Santiago,Thailand:Bangkok,India:New Delhi,Iran:Tehran,Iraq:Baghdad,Kenya:Nairobi,England:London,"
        "Canada:Ottawa,Ukraine:Kiev,Turkey:Ankara,Vietnam:Hanoi,Nepal:Kathmandu,Jordan:Amman,Lebanon:Beirut,"
        "Syria:Damascus,Mexico:Mexico City,Argentina:Buenos Aires,Colombia:Bogota,Venezuela:Caracas,"
        "Ethiopia:Addis Ababa,Ghana:Accra,Morocco:Rabat,Algeria:Algiers,Libya:Tripoli,Tunisia:Tunis,"
        "Bulgaria:Sofia,Romania:Bucharest,Serbia:Belgrade,Croatia:Zagreb,Iceland:Reykjavik,Indonesia:Jakarta,"
        "Malaysia:Kuala Lumpur,Mongolia:Ulaanbaatar,Jamaica:Kingston,Uganda:Kampala,Zimbabwe:Harare,"
        "Afghanistan:Kabul,Cambodia:Phnom Penh,Philippines:Manila,Scotland:Edinburgh,Wales:Cardiff,"
        "Australia:Canberra,Brazil:Brasilia,Pakistan:Islamabad,Bangladesh:Dhaka,Ecuador:Quito,Uruguay:Montevideo,"
        "Bolivia:La Paz,Panama:Panama City,Switzerland:Bern,Netherlands:Amsterdam,South Korea:Seoul,"
        "Israel:Jerusalem,Nigeria:Abuja,Senegal:Dakar,Qatar:Doha"
    ).split(",")
)

# Each pair is one fact: a question asks one direction, the other is never asked (an inverse would leak the answer).
OPPOSITES = dict(
    pair.split(":")
    for pair in (
        "hot:cold,big:small,fast:slow,happy:sad,high:low,light:dark,wet:dry,young:old,rich:poor,strong:weak,"
        "early:late,open:closed,full:empty,hard:soft,clean:dirty,loud:quiet,left:right,up:down,day:night,"
        "good:bad,black:white,thick:thin,wide:narrow,deep:shallow,heavy:light,long:short,sweet:sour,true:false,"
        "war:peace,love:hate,life:death,win:lose,buy:sell,push:pull,give:take,start:stop,begin:end,laugh:cry,"
        "remember:forget,ask:answer,inside:outside,above:below,before:after,first:last,easy:difficult,"
        "cheap:expensive,safe:dangerous,smooth:rough,sharp:dull,tight:loose,brave:afraid,polite:rude,near:far,"
        "north:south,east:west,summer:winter,male:female,king:queen,positive:negative,success:failure,"
        "increase:decrease,arrive:leave,accept:reject,attack:defend,push:pull,ancient:modern,guilty:innocent,"
        "public:private,simple:complex,raw:cooked,asleep:awake,alive:dead,always:never,maximum:minimum,"
        "import:export,beautiful:ugly,friend:enemy,front:back,top:bottom,question:answer,sunrise:sunset"
    ).split(",")
)

PLURALS = dict(
    pair.split(":")
    for pair in (
        "mouse:mice,child:children,foot:feet,tooth:teeth,man:men,woman:women,goose:geese,person:people,"
        "leaf:leaves,wolf:wolves,knife:knives,wife:wives,city:cities,baby:babies,box:boxes,bus:buses,cat:cats,"
        "house:houses,story:stories,country:countries,potato:potatoes,tomato:tomatoes,hero:heroes,"
        "church:churches,dish:dishes,life:lives,half:halves,party:parties,lady:ladies,family:families,"
        "watch:watches,fox:foxes,glass:glasses,shelf:shelves,thief:thieves,ox:oxen"
    ).split(",")
)

LANGUAGES = dict(
    pair.split(":")
    for pair in (
        "France:French,Germany:German,Italy:Italian,Spain:Spanish,Japan:Japanese,China:Chinese,Russia:Russian,"
        "Egypt:Arabic,Greece:Greek,Portugal:Portuguese,Poland:Polish,Hungary:Hungarian,Norway:Norwegian,"
        "Sweden:Swedish,Finland:Finnish,Denmark:Danish,Turkey:Turkish,Vietnam:Vietnamese,Thailand:Thai,"
        "Ukraine:Ukrainian,Israel:Hebrew,Korea:Korean,Romania:Romanian,Bulgaria:Bulgarian,Iceland:Icelandic,"
        "Indonesia:Indonesian,Croatia:Croatian,Mongolia:Mongolian"
    ).split(",")
)
