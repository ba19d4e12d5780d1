"""The facts themselves: our own tables of everyday knowledge, one family a dictionary from subject to answer.

Which of them a backbone really knows is measured, not assumed (`StageGraph.known`). The families at the end are for
practice only.
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

# For practice: what a text LLM knows about the forms and the order of words. Asked in text and speech, answered in
# speech, never tested; no subject here is in a family above with the same question.
PAST_TENSES = dict(
    pair.split(":")
    for pair in (
        "walk:walked,talk:talked,jump:jumped,play:played,work:worked,call:called,look:looked,help:helped,want:wanted,"
        "need:needed,turn:turned,visit:visited,cook:cooked,dance:danced,smile:smiled,live:lived,hope:hoped,"
        "study:studied,carry:carried,try:tried,plan:planned,go:went,see:saw,come:came,make:made,know:knew,"
        "think:thought,find:found,tell:told,feel:felt,bring:brought,write:wrote,run:ran,sing:sang,swim:swam,"
        "drink:drank,eat:ate,drive:drove,ride:rode,break:broke,speak:spoke,choose:chose,sleep:slept,keep:kept,"
        "meet:met,sit:sat,stand:stood,pay:paid,teach:taught,catch:caught,fight:fought,hear:heard,hold:held,fly:flew,"
        "grow:grew,throw:threw,draw:drew,build:built,send:sent,spend:spent,fall:fell,wear:wore,wake:woke,hide:hid,"
        "bite:bit,shake:shook,steal:stole,sink:sank,blow:blew"
    ).split(",")
)

COMPARATIVES = dict(
    pair.split(":")
    for pair in (
        "tall:taller,warm:warmer,cool:cooler,kind:kinder,smart:smarter,funny:funnier,nice:nicer,large:larger,"
        "new:newer,great:greater,simple:simpler,safe:safer,big:bigger,small:smaller,fast:faster,slow:slower,"
        "old:older,young:younger,cold:colder,hot:hotter,hard:harder,soft:softer,long:longer,short:shorter,"
        "strong:stronger,weak:weaker,rich:richer,poor:poorer,happy:happier,easy:easier,early:earlier,"
        "heavy:heavier,light:lighter,dark:darker,clean:cleaner,dirty:dirtier,deep:deeper,wide:wider,loud:louder,"
        "quiet:quieter,brave:braver,cheap:cheaper,thick:thicker,thin:thinner,sweet:sweeter"
    ).split(",")
)

MORE_PLURALS = dict(
    pair.split(":")
    for pair in (
        "dog:dogs,horse:horses,bird:birds,tree:trees,book:books,table:tables,chair:chairs,car:cars,apple:apples,"
        "flower:flowers,river:rivers,mountain:mountains,friend:friends,teacher:teachers,student:students,"
        "doctor:doctors,garden:gardens,window:windows,door:doors,street:streets,school:schools,letter:letters,"
        "pencil:pencils,hand:hands,eye:eyes,ear:ears,finger:fingers,cow:cows,pig:pigs,egg:eggs,cup:cups,"
        "plate:plates,brush:brushes,bench:benches,peach:peaches,beach:beaches,class:classes,dress:dresses,"
        "fly:flies,berry:berries,cherry:cherries,army:armies,copy:copies,toy:toys,boy:boys,key:keys,"
        "monkey:monkeys,loaf:loaves,calf:calves,scarf:scarves,piano:pianos,photo:photos,radio:radios,zebra:zebras,"
        "lion:lions,tiger:tigers,bear:bears,rabbit:rabbits,song:songs,star:stars,planet:planets,ship:ships,"
        "train:trains,bridge:bridges,village:villages,island:islands,forest:forests,nurse:nurses,farmer:farmers,"
        "bottle:bottles,candle:candles,mirror:mirrors"
    ).split(",")
)

PARTICIPLES = dict(
    pair.split(":")
    for pair in (
        "walk:walking,run:running,sing:singing,swim:swimming,write:writing,read:reading,eat:eating,sleep:sleeping,"
        "drive:driving,fly:flying,make:making,come:coming,go:going,play:playing,work:working,think:thinking,"
        "speak:speaking,dance:dancing,sit:sitting,stand:standing,fight:fighting,cook:cooking,build:building,"
        "learn:learning,teach:teaching,cut:cutting,fall:falling,grow:growing,hide:hiding,jump:jumping,kick:kicking,"
        "listen:listening,paint:painting,watch:watching"
    ).split(",")
)

# The next tables ask for knowledge, not for word forms: what SmolLM2-135M answers correctly in text.
MORE_CAPITALS = dict(
    pair.split(":")
    for pair in (
        "Texas:Austin,Hawaii:Honolulu,Tennessee:Nashville,Massachusetts:Boston,Arizona:Phoenix,Ohio:Columbus,"
        "Virginia:Richmond,Indiana:Indianapolis,Mississippi:Jackson,Taiwan:Taipei,Catalonia:Barcelona,"
        "Saudi Arabia:Riyadh,Nicaragua:Managua"
    ).split(",")
)

MORE_OPPOSITES = dict(
    pair.split(":")
    for pair in (
        "borrow:lend,husband:wife,uncle:aunt,son:daughter,mother:father,brother:sister,profit:loss,"
        "victory:defeat,entrance:exit,hero:villain,liquid:solid,expand:contract,visible:invisible,"
        "possible:impossible,vertical:horizontal,major:minor,urban:rural,cause:effect,supply:demand,"
        "dawn:dusk,heaven:hell,predator:prey,passive:active,absent:present,future:past,few:many,plus:minus,"
        "ceiling:floor,odd:even,credit:debit,winner:loser,internal:external,interior:exterior,"
        "include:exclude,majority:minority,multiply:divide,optional:mandatory,sick:healthy,superior:inferior,"
        "useful:useless,villain:hero,wise:foolish,correct:incorrect,direct:indirect,known:unknown,"
        "likely:unlikely,lucky:unlucky,pleasant:unpleasant,stable:unstable,able:unable,connect:disconnect,"
        "even:odd,formal:informal,mature:immature,mortal:immortal,pure:impure,rational:irrational,"
        "responsible:irresponsible,sane:insane,employed:unemployed,familiar:unfamiliar,healthy:unhealthy,"
        "messy:tidy,sister:brother,father:mother,girl:boy,daughter:son,aunt:uncle,grandfather:grandmother,"
        "bride:groom,predecessor:successor,input:output,offense:defense,maximize:minimize,analog:digital,"
        "concrete:abstract,explicit:implicit,introvert:extrovert,convex:concave,fiction:nonfiction,"
        "prefix:suffix,numerator:denominator"
    ).split(",")
)

MORE_LANGUAGES = dict(
    pair.split(":")
    for pair in (
        "Brazil:Portuguese,Mexico:Spanish,Argentina:Spanish,Australia:English,Canada:English,Cuba:Spanish,"
        "Chile:Spanish,Iraq:Arabic,India:Hindi,Jordan:Arabic,Colombia:Spanish,Netherlands:Dutch,"
        "England:English,Bolivia:Spanish,Ecuador:Spanish,Uruguay:Spanish,Morocco:Arabic,Algeria:Arabic,"
        "Tunisia:Arabic,Serbia:Serbian,Jamaica:English,Saudi Arabia:Arabic,Panama:Spanish,"
        "Lithuania:Lithuanian,Latvia:Latvian,Slovakia:Slovak,Albania:Albanian,Armenia:Armenian,"
        "Georgia:Georgian,Laos:Lao,Hawaii:Hawaiian,Honduras:Spanish,Guatemala:Spanish"
    ).split(",")
)

KINDS = dict(
    pair.split(":")
    for pair in (
        "rose:flower,tulip:flower,hammer:tool,wrench:tool,shovel:tool,drill:tool,piano:instrument,"
        "violin:instrument,flute:instrument,guitar:instrument,trumpet:instrument,drum:instrument,salmon:fish,"
        "tuna:fish,trout:fish,goldfish:fish,sparrow:bird,hawk:bird,pigeon:bird,cabbage:vegetable,"
        "broccoli:vegetable,banana:fruit,pear:fruit,grape:fruit,lemon:fruit,mango:fruit,cherry:fruit,"
        "peach:fruit,strawberry:fruit,jacket:clothing,chair:furniture,sofa:furniture,pine:tree,palm:tree,"
        "truck:vehicle,car:vehicle,motorcycle:vehicle,spoon:utensil,tennis:sport,football:sport,soccer:sport,"
        "basketball:sport,hockey:sport,copper:metal,silver:metal,helium:gas,chess:game,poker:game,"
        "waltz:dance,red:color,blue:color,purple:color,Monday:day,Friday:day,Latin:language,Mars:planet,"
        "Saturn:planet,Venus:planet,Texas:state,Ohio:state,Nile:river,Atlantic:ocean,Africa:continent,"
        "Europe:continent,hurricane:storm,poodle:dog,terrier:dog"
    ).split(",")
)

CURRENCIES = dict(
    pair.split(":")
    for pair in (
        "Japan:yen,India:rupee,Mexico:peso,Russia:ruble,England:pound,America:dollar,Germany:euro,"
        "Turkey:lira,Thailand:baht,Israel:shekel,Canada:dollar,Australia:dollar,Korea:won,France:euro,"
        "Italy:euro,Egypt:pound"
    ).split(",")
)

CONTINENTS = dict(
    pair.split(":")
    for pair in (
        "Kenya:Africa,Brazil:South America,Canada:North America,India:Asia,Nigeria:Africa,Vietnam:Asia,"
        "Italy:Europe,China:Asia,Thailand:Asia,Peru:South America,Poland:Europe,Algeria:Africa,Uganda:Africa,"
        "Senegal:Africa,Colombia:South America,Greece:Europe,Ethiopia:Africa,Libya:Africa,"
        "Argentina:South America,Finland:Europe"
    ).split(",")
)

_ORDERS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty",
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday Monday",
    "January February March April May June July August September October November December January",
)
FOLLOWERS = {word: after for order in _ORDERS for word, after in zip(order.split(), order.split()[1:], strict=False)}
